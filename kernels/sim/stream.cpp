/*
 * stream.cpp: streams are queues whose work runs when something waits for
 * it (LAZY), at random times in a random order of streams (RANDOM), or at
 * once (EAGER). What is not ordered by a stream or an event is not ordered.
 */

#include "runtime.h"

#include <chrono>

namespace simt {

static double now_ms()
{
    return std::chrono::duration<double, std::milli>(
        std::chrono::steady_clock::now().time_since_epoch()).count();
}

bool known(cudaStream_t s)
{
    for (SimtStream *x : rt().streams) {
        if (x == s) {
            return true;
        }
    }
    return false;
}

SimtStream *stream_of(cudaStream_t s)
{
    return s ? s : &rt().null_stream;
}

static bool ready(SimtStream *s)
{
    if (s->queue.empty()) {
        return false;
    }
    const Queued &op = s->queue.front();
    return !op.wait || op.wait->done >= op.generation;
}

bool all_idle()
{
    if (!rt().null_stream.queue.empty()) {
        return false;
    }
    for (SimtStream *s : rt().streams) {
        if (!s->queue.empty()) {
            return false;
        }
    }
    return true;
}

/* Takes one operation off the stream and does it. On a broken device
 * nothing is done any more, but events still complete. */
static void step(SimtStream *s)
{
    Queued op = std::move(s->queue.front());

    s->queue.pop_front();
    if (op.run && rt().sticky == cudaSuccess) {
        s->last = op.run(s->last);
    }
    if (op.record) {
        op.record->done = std::max(op.record->done, op.generation);
        op.record->ms = now_ms();
    }
}

void pump(const std::function<bool()> &until, SimtStream *prefer)
{
    Runtime &r = rt();

    while (!until()) {
        std::vector<SimtStream *> can;

        for (SimtStream *s : r.streams) {
            if (ready(s)) {
                can.push_back(s);
            }
        }
        if (ready(&r.null_stream)) {   /* nobody waits for it: last if LAZY */
            can.push_back(&r.null_stream);
        }
        if (can.empty()) {
            fail("queued work waits for events that nothing will record");
        }
        SimtStream *s = can[r.mode == RANDOM ? r.random() % can.size() : 0];
        if (r.mode == LAZY && prefer && ready(prefer)) {
            s = prefer;
        }
        step(s);
    }
}

/* At most one operation. */
static void pump_once()
{
    bool first = true;

    pump([&] {
        bool stop = !first || all_idle();
        first = false;
        return stop;
    });
}

/* For polling: the awaited stream goes on, as time would make it. */
static void pump_some(SimtStream *s)
{
    if (s && ready(s) && rt().mode != RANDOM) {
        step(s);
    } else {
        pump_once();
    }
}

static cudaError_t queue(SimtStream *s, Queued op)
{
    Runtime &r = rt();

    s->queue.push_back(std::move(op));
    if (r.mode == EAGER) {
        pump(all_idle);
    } else if (r.mode == RANDOM && r.random() % 3 == 0) {
        pump_once();
    }
    return cudaSuccess;
}

cudaError_t push(cudaStream_t stream, Work work, bool pdl)
{
    SimtStream *s = stream_of(stream);

    if (stream && !known(stream)) {
        return error(cudaErrorInvalidResourceHandle);
    }
    if (s->capture) {
        SimtGraph *g = s->capture;
        g->nodes.push_back({std::move(work), s->tail,
                            pdl && s->tail.size() == 1});
        s->tail = {(int) g->nodes.size() - 1};
        return cudaSuccess;
    }
    Queued op;
    op.run = std::move(work);
    return queue(s, std::move(op));
}

bool spoil_captures()
{
    bool any = false;

    for (SimtStream *s : rt().streams) {
        if (s->capture) {
            any = s->capture->bad = true;
        }
    }
    return any;
}

/* ---- the door for the fake cublasLt ---- */

struct BlasWork {
    void (*run)(void *);
    void (*drop)(void *);
    void  *arg;

    ~BlasWork() { drop(arg); }
};

static int blas_enqueue(BlasDoor *stream, void (*run)(void *),
    void (*drop)(void *), void *arg)
{
    Lock lock(rt().lock);
    std::shared_ptr<BlasWork> w(new BlasWork{run, drop, arg});

    return push(static_cast<SimtStream *>(stream),
        [w](const RecPtr &) -> RecPtr {
            w->run(w->arg);
            return nullptr;
        });
}

static bool blas_is_device(const void *p, size_t n)
{
    Lock         lock(rt().lock);
    char        *base;
    const Alloc *a = alloc_of(p, &base);

    return a && (const char *) p + n <= base + a->size;
}

static void blas_wrote(const void *p, size_t n)
{
    if (hook_host_write) {
        hook_host_write(p, n);
    }
}

}  // namespace simt

using namespace simt;

SimtStream::SimtStream()
{
    magic = BLAS_DOOR_MAGIC;
    enqueue = blas_enqueue;
    is_device = blas_is_device;
    wrote = blas_wrote;
}

extern "C" {

static cudaError_t new_stream(cudaStream_t *s)
{
    Runtime &r = rt();

    *s = new SimtStream();
    (*s)->id = ++r.next_id;
    r.streams.insert(*s);
    return cudaSuccess;
}

cudaError_t cudaStreamCreate(cudaStream_t *s)
{
    SIMT_API("cudaStreamCreate");
    return new_stream(s);
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned int)
{
    SIMT_API("cudaStreamCreateWithFlags");
    return new_stream(s);
}

cudaError_t cudaStreamCreateWithPriority(cudaStream_t *s, unsigned int, int)
{
    SIMT_API("cudaStreamCreateWithPriority");
    return new_stream(s);
}

cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest)
{
    SIMT_API("cudaDeviceGetStreamPriorityRange");
    *least = 0;
    *greatest = -5;
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t s)
{
    SIMT_API("cudaStreamDestroy");
    if (!known(s)) {
        return error(cudaErrorInvalidResourceHandle);
    }
    pump([=] { return s->queue.empty(); }, s);
    rt().streams.erase(s);
    delete s;
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
    SIMT_API("cudaStreamSynchronize");
    SimtStream *s = stream_of(stream);

    if (stream && !known(stream)) {
        return error(cudaErrorInvalidResourceHandle);
    }
    if (s->capture) {
        s->capture->bad = true;
        return error(cudaErrorStreamCaptureUnsupported);
    }
    pump([=] { return s->queue.empty(); }, s);
    return rt().sticky;
}

cudaError_t cudaStreamQuery(cudaStream_t stream)
{
    SIMT_API("cudaStreamQuery");
    SimtStream *s = stream_of(stream);

    if (stream && !known(stream)) {
        return error(cudaErrorInvalidResourceHandle);
    }
    if (!s->queue.empty()) {
        pump_some(s);
    }
    if (rt().sticky != cudaSuccess) {
        return rt().sticky;
    }
    return s->queue.empty() ? cudaSuccess : cudaErrorNotReady;
}

static cudaError_t new_event(cudaEvent_t *e, unsigned flags)
{
    *e = new SimtEvent();
    (*e)->timing = !(flags & cudaEventDisableTiming);
    rt().events.insert(*e);
    return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t *e)
{
    SIMT_API("cudaEventCreate");
    return new_event(e, 0);
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned int flags)
{
    SIMT_API("cudaEventCreateWithFlags");
    return new_event(e, flags);
}

/* As the real one: pending work that waits for or records it still does. */
cudaError_t cudaEventDestroy(cudaEvent_t e)
{
    SIMT_API("cudaEventDestroy");
    if (!rt().events.count(e)) {
        return error(cudaErrorInvalidResourceHandle);
    }
    pump(all_idle);
    rt().events.erase(e);
    delete e;
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t stream)
{
    SIMT_API("cudaEventRecord");
    SimtStream *s = stream_of(stream);

    if (!rt().events.count(e) || (stream && !known(stream))) {
        return error(cudaErrorInvalidResourceHandle);
    }
    if (s->capture) {
        e->capture = s->capture;
        e->deps = s->tail;
        return cudaSuccess;
    }
    e->capture = nullptr;

    Queued op;
    op.record = e;
    op.generation = ++e->recorded;
    return queue(s, std::move(op));
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t e,
    unsigned int)
{
    SIMT_API("cudaStreamWaitEvent");
    SimtStream *s = stream_of(stream);

    if (!rt().events.count(e) || (stream && !known(stream))) {
        return error(cudaErrorInvalidResourceHandle);
    }
    if (e->capture) {
        if (s->capture && s->capture != e->capture) {
            return error(cudaErrorStreamCaptureMerge);
        }
        s->capture = e->capture;
        s->tail.insert(s->tail.end(), e->deps.begin(), e->deps.end());
        return cudaSuccess;
    }
    if (s->capture) {
        s->capture->bad = true;
        return error(cudaErrorStreamCaptureIsolation);
    }

    Queued op;
    op.wait = e;
    op.generation = e->recorded;
    return queue(s, std::move(op));
}

cudaError_t cudaEventSynchronize(cudaEvent_t e)
{
    SIMT_API("cudaEventSynchronize");
    if (!rt().events.count(e)) {
        return error(cudaErrorInvalidResourceHandle);
    }
    if (e->capture) {
        e->capture->bad = true;
        return error(cudaErrorCapturedEvent);
    }
    uint64_t generation = e->recorded;

    pump([=] { return e->done >= generation; });
    return rt().sticky;
}

cudaError_t cudaEventQuery(cudaEvent_t e)
{
    SIMT_API("cudaEventQuery");
    if (!rt().events.count(e)) {
        return error(cudaErrorInvalidResourceHandle);
    }
    if (e->done < e->recorded) {
        pump_once();
    }
    if (rt().sticky != cudaSuccess) {
        return rt().sticky;
    }
    return e->done >= e->recorded ? cudaSuccess : cudaErrorNotReady;
}

cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t from, cudaEvent_t to)
{
    SIMT_API("cudaEventElapsedTime");
    if (!rt().events.count(from) || !rt().events.count(to) || !from->timing
        || !to->timing || !from->recorded || !to->recorded)
    {
        return error(cudaErrorInvalidResourceHandle);
    }
    if (from->done < from->recorded || to->done < to->recorded) {
        return cudaErrorNotReady;
    }
    *ms = (float) (to->ms - from->ms);
    return cudaSuccess;
}

cudaError_t cudaLaunchHostFunc(cudaStream_t s, cudaHostFn_t fn, void *arg)
{
    SIMT_API("cudaLaunchHostFunc");
    return push(s, [=](const RecPtr &) -> RecPtr {
        fn(arg);
        return nullptr;
    });
}

}
