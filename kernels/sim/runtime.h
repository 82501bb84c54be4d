/*
 * runtime.h: inside of the fake CUDA runtime.
 *
 *   device.cpp   driver, devices, errors, failures on demand
 *   memory.cpp   guarded, poisoned allocations; copies
 *   stream.cpp   queues, events, when what runs
 *   graph.cpp    capture and replay
 *   launch.cpp   kernels
 *
 * One lock for everything; queued work runs under it, in the thread that
 * waits for it. Device memory is host memory: only the rules are checked.
 * Streams, events and graphs are known by address in sets, so that a stale
 * handle is an error and not a crash.
 */

#ifndef SIMT_RUNTIME_H
#define SIMT_RUNTIME_H

#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "include/cuda_runtime.h"
#include "blas_door.h"
#include "fiber.h"

namespace simt {

/* Records of the launch that ran last where this one runs: NULL when
 * something else did. */
typedef std::shared_ptr<LaunchRec> RecPtr;

/* A piece of work. prev: the launch right before it in its stream or along
 * its programmatic edge. Returns the record when it is a launch. */
typedef std::function<RecPtr(const RecPtr &prev)> Work;

struct Node {
    Work             run;
    std::vector<int> deps;
    bool             pdl = false;     /* the edge to its one dep is
                                       * programmatic */
};

struct Queued {
    Work       run;                   /* or empty: an event */
    SimtEvent *wait = nullptr, *record = nullptr;
    uint64_t   generation = 0;        /* of the event */
};

}  // namespace simt

struct SimtGraph {
    std::vector<simt::Node> nodes;
    bool                    bad = false;   /* capture was invalidated */
};

struct SimtGraphExec {
    std::shared_ptr<std::vector<simt::Node>> nodes;
};

struct SimtStream : simt::BlasDoor {
    uint64_t             id = 0;
    std::deque<simt::Queued> queue;
    SimtGraph           *capture = nullptr;
    std::vector<int>     tail;         /* capture: nodes next one follows */
    bool                 origin = false;
    simt::RecPtr         last;         /* executed last, if a launch */

    SimtStream();
};

struct SimtEvent {
    uint64_t         recorded = 0, done = 0;    /* generations */
    double           ms = 0;
    bool             timing = true;
    SimtGraph       *capture = nullptr;
    std::vector<int> deps;
};

namespace simt {

struct Alloc {
    char  *map;
    size_t map_len, size;
    bool   host;
};

struct ById {
    bool operator()(const SimtStream *a, const SimtStream *b) const
    {
        return a->id < b->id;
    }
};

struct Device {
    std::string name = "SIMT emulator";
    size_t      mem = (size_t) 512 << 20;
    int         cc = 90, sms = 4, count = 1;
    int         driver = CUDART_VERSION;     /* 0: none */
};

struct Runtime {
    std::recursive_mutex      lock;
    Device                    dev;
    std::map<char *, Alloc>   allocs;
    size_t                    used = 0;
    SimtStream                null_stream;
    std::set<SimtStream *, ById> streams;
    std::set<SimtEvent *>     events;
    std::set<SimtGraph *>     graphs;
    std::set<SimtGraphExec *> execs;
    uint64_t                  next_id = 0;
    Async                     mode = LAZY;
    uint64_t                  rng = 1;
    cudaError_t               last = cudaSuccess;
    cudaError_t               sticky = cudaSuccess;
    std::map<const void *, int> smem_limit;
    std::map<std::string, long> calls;
    std::map<std::string, std::pair<long, int>> fail_at;   /* nth, code */

    Runtime();                         /* reads the environment */
    uint64_t random();
};

Runtime &rt();                         /* never destroyed */

typedef std::lock_guard<std::recursive_mutex> Lock;

/* Remembers an error for cudaGetLastError and returns it. */
cudaError_t error(cudaError_t e);

/* What every API does first: the driver's, a sticky or a planned error. */
cudaError_t api_begin(const char *name);

#define SIMT_API(name) \
    Lock lock_(rt().lock); \
    do { \
        cudaError_t begin_ = api_begin(name); \
        if (begin_ != cudaSuccess) { \
            return begin_; \
        } \
    } while (0)

/* Whether a planned failure of name is due; its code. */
bool fail_due(const char *name, cudaError_t *code);
/* The device is broken from here on. */
void set_sticky(cudaError_t e);

/* memory.cpp */
const char *find_alloc(const void *p, size_t &size);
/* The allocation p lies in, or NULL. */
const Alloc *alloc_of(const void *p, char **base);
void *guarded_alloc(size_t n, bool host);

/* stream.cpp */
bool known(cudaStream_t s);
SimtStream *stream_of(cudaStream_t s);
/* Queues work, or adds it to the capture of the stream. */
cudaError_t push(cudaStream_t s, Work work, bool pdl = false);
/* Runs queued work until the condition holds; prefer: LAZY runs only that
 * stream as long as it can. */
void pump(const std::function<bool()> &until, SimtStream *prefer = nullptr);
bool all_idle();
/* Marks captures as invalid, as a call does that is unsafe in one. */
bool spoil_captures();

/* graph.cpp: replays nodes in a random topological order. */
void replay(const std::vector<Node> &nodes);

}  // namespace simt

#endif
