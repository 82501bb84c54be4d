/*
 * sim_test.h: what the emulator's own tests share: launches, buffers, and
 * code that must die or be reported, in a child whose messages are read.
 */

#ifndef SIM_TEST_H
#define SIM_TEST_H

#include <cuda_runtime.h>

#include <string>
#include <sys/wait.h>
#include <unistd.h>
#include <vector>

#include "../../../engine/test/tap.h"

#define SIM_UNUSED __attribute__((unused))

SIM_UNUSED static cudaLaunchConfig_t
cfg(dim3 grid, dim3 block, size_t smem = 0, cudaStream_t stream = nullptr)
{
    cudaLaunchConfig_t c = {};

    c.gridDim = grid;
    c.blockDim = block;
    c.dynamicSmemBytes = smem;
    c.stream = stream;
    return c;
}

/* n values in device memory, uploaded or poison. */
template <class T>
struct Dev {
    T     *p = nullptr;
    size_t n;

    explicit Dev(size_t count) : n(count)
    {
        if (cudaMalloc(&p, n * sizeof(T)) != cudaSuccess) {
            abort();
        }
    }
    explicit Dev(const std::vector<T> &v) : Dev(v.size()) { up(v); }
    Dev(const Dev &) = delete;
    ~Dev() { cudaFree(p); }

    void up(const std::vector<T> &v)
    {
        cudaMemcpy(p, v.data(), n * sizeof(T), cudaMemcpyHostToDevice);
        cudaDeviceSynchronize();   /* other streams do not wait for it */
    }
    std::vector<T> down() const
    {
        std::vector<T> v(n);

        cudaDeviceSynchronize();
        cudaMemcpy(v.data(), p, n * sizeof(T), cudaMemcpyDeviceToHost);
        return v;
    }
};

struct Outcome {
    int         status;           /* exit code */
    std::string text;             /* stderr */

    bool says(const char *what) const
    {
        return text.find(what) != text.npos;
    }
};

/* Runs f in a child; f returns whether its results are right: exit code 0
 * or 1; reports of the checker make it 2; the emulator's own end is 97. */
template <class F>
Outcome in_child(F f)
{
    int     pipe_fd[2];
    char    buf[4096];
    ssize_t n;
    Outcome out;

    fflush(nullptr);
    if (pipe(pipe_fd)) {
        abort();
    }
    pid_t pid = fork();
    if (pid == 0) {
        dup2(pipe_fd[1], 2);
        close(pipe_fd[0]);
        close(pipe_fd[1]);
        bool right = f();
        fflush(nullptr);
        _exit(simt::checked() && simt::check_reports ? 2 : !right);
    }
    close(pipe_fd[1]);
    while ((n = read(pipe_fd[0], buf, sizeof buf)) > 0) {
        out.text.append(buf, (size_t) n);
    }
    close(pipe_fd[0]);
    waitpid(pid, &out.status, 0);
    out.status = WIFEXITED(out.status) ? WEXITSTATUS(out.status) : 255;
    return out;
}

SIM_UNUSED static void
show(const Outcome &o)
{
    for (size_t at = 0, end; at < o.text.size(); at = end + 1) {
        end = std::min(o.text.find('\n', at), o.text.size());
        diag("  %s", o.text.substr(at, end - at).c_str());
    }
}

#endif
