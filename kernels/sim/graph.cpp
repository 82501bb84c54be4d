/*
 * graph.cpp: stream capture and graph launches. A replay takes any order
 * that the edges allow (RANDOM), so that a missing edge shows.
 */

#include "runtime.h"

namespace simt {

static bool may_run(const std::vector<Node> &nodes,
    const std::vector<char> &done, size_t i)
{
    if (done[i]) {
        return false;
    }
    for (int d : nodes[i].deps) {
        if (!done[(size_t) d]) {
            return false;
        }
    }
    return true;
}

void replay(const std::vector<Node> &nodes)
{
    Runtime            &r = rt();
    std::vector<char>   done(nodes.size(), 0);
    std::vector<RecPtr> rec(nodes.size());
    size_t              first = 0;

    for (size_t k = 0; k < nodes.size(); k++) {
        std::vector<size_t> can;

        while (done[first]) {
            first++;
        }
        for (size_t i = first; i < nodes.size(); i++) {
            if (may_run(nodes, done, i)) {
                can.push_back(i);
                if (r.mode != RANDOM) {
                    break;
                }
            }
        }

        size_t      i = can[r.mode == RANDOM ? r.random() % can.size() : 0];
        const Node &n = nodes[i];
        if (r.sticky == cudaSuccess) {
            rec[i] = n.run(n.pdl ? rec[(size_t) n.deps[0]] : nullptr);
        }
        done[i] = 1;
    }
}

/* Every node must lead to the end of the stream that began the capture. */
static bool joined(const SimtGraph *g, std::vector<int> tail)
{
    std::vector<char> seen(g->nodes.size(), 0);

    while (!tail.empty()) {
        size_t i = (size_t) tail.back();
        tail.pop_back();
        if (!seen[i]) {
            seen[i] = 1;
            tail.insert(tail.end(), g->nodes[i].deps.begin(),
                        g->nodes[i].deps.end());
        }
    }
    for (char s : seen) {
        if (!s) {
            return false;
        }
    }
    return true;
}

}  // namespace simt

using namespace simt;

extern "C" {

cudaError_t cudaStreamBeginCapture(cudaStream_t s,
    enum cudaStreamCaptureMode)
{
    SIMT_API("cudaStreamBeginCapture");
    if (!s) {
        return error(cudaErrorStreamCaptureUnsupported);
    }
    if (!known(s)) {
        return error(cudaErrorInvalidResourceHandle);
    }
    if (s->capture) {
        return error(cudaErrorIllegalState);
    }
    s->capture = new SimtGraph();
    s->tail.clear();
    s->origin = true;
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *graph)
{
    SIMT_API("cudaStreamEndCapture");
    Runtime   &r = rt();

    *graph = nullptr;
    if (!s || !known(s)) {
        return error(cudaErrorInvalidResourceHandle);
    }

    SimtGraph *g = s->capture;
    if (!g) {
        return error(cudaErrorIllegalState);
    }
    if (!s->origin) {
        return error(cudaErrorStreamCaptureUnmatched);
    }

    bool whole = joined(g, s->tail);
    for (SimtStream *x : r.streams) {
        if (x->capture == g) {
            x->capture = nullptr;
            x->tail.clear();
            x->origin = false;
        }
    }
    for (SimtEvent *e : r.events) {
        if (e->capture == g) {
            e->capture = nullptr;
        }
    }
    if (g->bad || !whole) {
        cudaError_t code = g->bad ? cudaErrorStreamCaptureInvalidated
                                  : cudaErrorStreamCaptureUnjoined;
        delete g;
        return error(code);
    }
    r.graphs.insert(g);
    *graph = g;
    return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t s,
    enum cudaStreamCaptureStatus *status)
{
    SIMT_API("cudaStreamIsCapturing");
    if (s && !known(s)) {
        return error(cudaErrorInvalidResourceHandle);
    }
    *status = !s || !s->capture ? cudaStreamCaptureStatusNone
              : s->capture->bad ? cudaStreamCaptureStatusInvalidated
                                : cudaStreamCaptureStatusActive;
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t g,
    unsigned long long)
{
    SIMT_API("cudaGraphInstantiate");
    if (!rt().graphs.count(g)) {
        return error(cudaErrorInvalidValue);
    }
    *exec = new SimtGraphExec();
    (*exec)->nodes = std::make_shared<std::vector<Node>>(g->nodes);
    rt().execs.insert(*exec);
    return cudaSuccess;
}

cudaError_t cudaGraphUpload(cudaGraphExec_t exec, cudaStream_t)
{
    SIMT_API("cudaGraphUpload");
    return rt().execs.count(exec) ? cudaSuccess
                                  : error(cudaErrorInvalidValue);
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t s)
{
    SIMT_API("cudaGraphLaunch");
    if (!rt().execs.count(exec)) {
        return error(cudaErrorInvalidValue);
    }
    if (stream_of(s)->capture) {
        stream_of(s)->capture->bad = true;
        return error(cudaErrorStreamCaptureUnsupported);
    }
    auto nodes = exec->nodes;

    return push(s, [nodes](const RecPtr &) -> RecPtr {
        replay(*nodes);
        return nullptr;
    });
}

cudaError_t cudaGraphGetNodes(cudaGraph_t g, cudaGraphNode_t *nodes,
    size_t *n_nodes)
{
    SIMT_API("cudaGraphGetNodes");
    if (!rt().graphs.count(g) || nodes) {
        return error(cudaErrorInvalidValue);
    }
    *n_nodes = g->nodes.size();
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t g)
{
    SIMT_API("cudaGraphDestroy");
    if (!rt().graphs.erase(g)) {
        return error(cudaErrorInvalidValue);
    }
    delete g;
    return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec)
{
    SIMT_API("cudaGraphExecDestroy");
    if (!rt().execs.erase(exec)) {
        return error(cudaErrorInvalidValue);
    }
    delete exec;
    return cudaSuccess;
}

}
