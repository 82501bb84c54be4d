/*
 * perf.cpp: counts that follow from addresses alone: 32-byte sectors of each
 * warp-wide request to global memory against the fewest possible, passes
 * over the banks for each request to shared memory, distinct sectors of a
 * launch. Part of checked builds.
 *
 * Lanes run one after another, so the k-th access of each lane by one
 * instruction between two barriers makes one request; what has fewer lanes
 * at the next barrier is a request with fewer lanes. A loop that some lanes
 * leave early pairs right, one that some lanes skip in the middle does not.
 *
 * g++ may take a vector apart: `float4 v = *p` becomes four reads of 4 bytes
 * and counts as such. What dev.cuh loads and stores is counted as one, and
 * PTX (a checked build with SIMT_PTX=) is counted as nvcc made it.
 */

#include "check.h"
#include "control.h"

#include <cstdlib>
#include <deque>
#include <map>
#include <unordered_map>
#include <unordered_set>
#include <vector>

namespace simt {

bool perf_on = getenv("SIMT_PROFILE") != nullptr;

/* 0: the lane had no part. */
struct Request {
    int       n = 0;
    uintptr_t addr[32] = {};
};

/* Requests of one instruction in one warp that wait for more lanes. */
struct Open {
    std::deque<Request> queue;
    uint64_t            base = 0;             /* number of the first */
    uint64_t            next[32] = {};        /* of each lane */
    unsigned            size = 0;
    bool                write = false, shared = false;
};

struct SiteStat {
    uint64_t requests = 0, lanes = 0, got = 0, least = 0;
    unsigned size = 0;
    bool     write = false, shared = false;
};

struct WarpState {
    uint32_t                               block = ~0u, bep = 0, wep = 0;
    std::unordered_map<const void *, Open> site;
};

static std::map<unsigned, WarpState>               warps;
static std::unordered_map<const void *, SiteStat>  sites;
static PerfCount                                   now_count;
static std::map<std::string, PerfCount>            totals;
static std::unordered_set<uintptr_t>               read_set, write_set;

/* ---- one request ---- */

static void count_global(const Request &r, const Open &o, SiteStat &s)
{
    uintptr_t sector[64 + 32], first[32];
    int       n_sectors = 0, n_first = 0;

    for (int i = 0; i < 32; i++) {
        if (r.addr[i] == 0) {
            continue;
        }
        uintptr_t from = r.addr[i] / 32, to = (r.addr[i] + o.size - 1) / 32;
        for (uintptr_t q = from; q <= to; q++) {
            if (std::find(sector, sector + n_sectors, q)
                == sector + n_sectors && n_sectors < 96)
            {
                sector[n_sectors++] = q;
            }
            (o.write ? write_set : read_set).insert(q);
        }
        if (std::find(first, first + n_first, r.addr[i]) == first + n_first) {
            first[n_first++] = r.addr[i];
        }
    }

    uint64_t least = ((uint64_t) n_first * o.size + 31) / 32;
    now_count.requests++;
    now_count.sectors += (uint64_t) n_sectors;
    now_count.min_sectors += least;
    s.got += (uint64_t) n_sectors;
    s.least += least;
}

/* 4-byte accesses of a warp are one pass, 8-byte ones two halves, 16-byte
 * ones four quarters, by lane, in whatever order the lanes came; each takes as
 * many passes as one bank has different words. */
static void count_shared(const Request &r, const Open &o, SiteStat &s)
{
    int per = o.size <= 4 ? 32 : o.size == 8 ? 16 : 8;

    now_count.shared++;
    for (int from = 0; from < 32; from += per) {
        uintptr_t word[32][32];
        int       n_words[32] = {}, most = 0;

        for (int i = from; i < from + per; i++) {
            if (r.addr[i] == 0) {
                continue;
            }
            most = std::max(most, 1);
            for (unsigned b = 0; b < o.size; b += 4) {
                uintptr_t w = (r.addr[i] + b) / 4;
                int      &n = n_words[w & 31];
                uintptr_t *at = word[w & 31];
                if (std::find(at, at + n, w) == at + n && n < 32) {
                    at[n++] = w;
                }
                most = std::max(most, n);
            }
        }
        now_count.passes += (uint64_t) most;
        now_count.min_passes += most != 0;
        s.got += (uint64_t) most;
        s.least += most != 0;
    }
}

static void finish(const void *pc, const Request &r, const Open &o)
{
    SiteStat &s = sites[pc];

    s.requests++;
    s.lanes += (uint64_t) r.n;
    s.size = o.size;
    s.write = o.write;
    s.shared = o.shared;
    if (o.shared) {
        count_shared(r, o, s);
    } else {
        count_global(r, o, s);
    }
}

static void flush(WarpState &w)
{
    for (auto &x : w.site) {
        for (const Request &r : x.second.queue) {
            finish(x.first, r, x.second);
        }
    }
    w.site.clear();
}

static void flush_all()
{
    for (auto &w : warps) {
        flush(w.second);
        w.second.block = ~0u;
    }
}

/* ---- from the checker ---- */

void perf_access(const Moment &m, const void *p, size_t n, bool write,
    bool shared, const void *pc)
{
    WarpState &w = warps[m.tid / 32];

    if (w.block != m.block || w.bep != m.bep || w.wep != m.wep) {
        flush(w);
        w.block = m.block;
        w.bep = m.bep;
        w.wep = m.wep;
    }

    Open    &o = w.site[pc];
    uint64_t k = o.next[m.tid & 31]++;
    if (k < o.base) {
        return;
    }
    o.size = (unsigned) n;
    o.write = write;
    o.shared = shared;
    if (k - o.base >= o.queue.size()) {
        o.queue.emplace_back();
    }
    Request &r = o.queue[k - o.base];
    r.addr[m.tid & 31] = (uintptr_t) p;
    r.n++;
    while (!o.queue.empty() && o.queue.front().n == 32) {
        finish(pc, o.queue.front(), o);
        o.queue.pop_front();
        o.base++;
    }
}

static void add(PerfCount &to, const PerfCount &c)
{
    to.launches += c.launches;
    to.requests += c.requests;
    to.sectors += c.sectors;
    to.min_sectors += c.min_sectors;
    to.read_bytes += c.read_bytes;
    to.write_bytes += c.write_bytes;
    to.shared += c.shared;
    to.passes += c.passes;
    to.min_passes += c.min_passes;
}

void perf_launch_end(const char *kernel)
{
    if (!perf_on) {
        return;
    }
    flush_all();
    now_count.launches = 1;
    now_count.read_bytes = read_set.size() * 32;
    now_count.write_bytes = write_set.size() * 32;
    add(totals[kernel], now_count);
    now_count = PerfCount();
    read_set.clear();
    write_set.clear();
}

/* ---- for tests ---- */

void perf_start()
{
    totals.clear();
    sites.clear();
    warps.clear();
    perf_on = true;
}

void perf_stop()
{
    perf_on = false;
}

PerfCount perf_count(const char *kernel)
{
    PerfCount sum = {};

    for (const auto &t : totals) {
        if (!kernel || t.first.find(kernel) != t.first.npos) {
            add(sum, t.second);
        }
    }
    return sum;
}

void perf_print()
{
    std::map<std::string, SiteStat> lines;

    for (const auto &t : totals) {
        const PerfCount &c = t.second;
        printf("# kernel %s launches %lu sectors %lu least %lu passes %lu "
               "least %lu read %lu written %lu\n", t.first.c_str(),
               (unsigned long) c.launches, (unsigned long) c.sectors,
               (unsigned long) c.min_sectors, (unsigned long) c.passes,
               (unsigned long) c.min_passes, (unsigned long) c.read_bytes,
               (unsigned long) c.write_bytes);
    }
    for (const auto &x : sites) {
        lines[where(x.first)] = x.second;
    }
    printf("# %-6s %s %4s %9s %5s %10s %10s %5s  %s\n", "space", "rw", "size",
           "requests", "lanes", "passes", "least", "%", "where");
    for (const auto &x : lines) {
        const SiteStat &s = x.second;
        printf("# %-6s  %c %4u %9lu %5.1f %10lu %10lu %5.0f  %s\n",
               s.shared ? "shared" : "global", s.write ? 'w' : 'r', s.size,
               (unsigned long) s.requests,
               (double) s.lanes / (double) s.requests, (unsigned long) s.got,
               (unsigned long) s.least,
               100.0 * (double) s.least / (double) s.got, x.first.c_str());
    }
}

}  // namespace simt
