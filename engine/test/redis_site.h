/*
 * redis_site.h: Redis servers of a test's own: in a directory of their own,
 * nothing persistent, dead when the test is. And clients of them.
 */

#ifndef INFER_REDIS_SITE_H
#define INFER_REDIS_SITE_H

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cache/redis_int.h"
#include "tap.h"

/* not every test uses all of it */
#pragma GCC diagnostic ignored "-Wunused-function"

#define RS_CONNECT_MS  300
#define RS_COMMAND_MS  300
/* of a loaded machine, or one under valgrind, beyond what was waited for */
#define RS_SLACK_MS    1000

typedef struct {
    char      dir[64];
    char      path[96];                /* unix socket */
    uint16_t  port;
    pid_t     pid;
} rs_server_t;


__attribute__((noreturn, format(printf, 1, 2)))
static void
rs_bail(const char *fmt, ...)
{
    va_list  ap;

    va_start(ap, fmt);
    printf("Bail out! ");
    vprintf(fmt, ap);
    printf("\n");
    va_end(ap);
    exit(1);
}

static uint64_t
rs_now_ms(void)
{
    return infer_redis_now_us() / 1000;
}

/* A listening socket on loopback. */
static int
rs_listen(uint16_t *port)
{
    int                 fd, on = 1;
    socklen_t           len = sizeof(struct sockaddr_in);
    struct sockaddr_in  sin = { .sin_family = AF_INET };

    sin.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    sin.sin_port = htons(*port);
    fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    (void) setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (fd < 0 || bind(fd, (struct sockaddr *) &sin, len) != 0
        || listen(fd, 64) != 0
        || getsockname(fd, (struct sockaddr *) &sin, &len) != 0)
    {
        rs_bail("listen: %s", strerror(errno));
    }
    *port = ntohs(sin.sin_port);
    return fd;
}

static uint16_t
rs_free_port(void)
{
    uint16_t  port = 0;

    close(rs_listen(&port));
    return port;
}

static int
rs_installed(void)
{
    const char  *p, *end, *path = getenv("PATH");
    char         file[512];

    for (p = path; p != NULL && *p; p = *end ? end + 1 : end) {
        end = strchrnul(p, ':');
        snprintf(file, sizeof(file), "%.*s/redis-server", (int) (end - p), p);
        if (access(file, X_OK) == 0) {
            return 1;
        }
    }
    return 0;
}

static void
rs_exec(const rs_server_t *s, const char *const extra[], pid_t parent)
{
    int          n = 0;
    char         port[8];
    const char  *argv[32] = {
        "redis-server", "--save", "", "--appendonly", "no", "--bind",
        "127.0.0.1", "--daemonize", "no", "--logfile", "log", "--dir",
        s->dir, "--unixsocket", s->path, "--port", port
    };

    while (argv[n] != NULL) {
        n++;
    }
    while (extra != NULL && *extra != NULL) {
        argv[n++] = *extra++;
    }
    snprintf(port, sizeof(port), "%u", s->port);
    (void) prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) {
        _exit(1);
    }
    execvp(argv[0], (char *const *) argv);
    _exit(1);
}

/* Starts one, on s->port when it is set; waits until it answers. */
static void
rs_start(rs_server_t *s, const char *const extra[])
{
    int                 fd, i, up = 0;
    pid_t               parent;
    struct sockaddr_un  un = { .sun_family = AF_UNIX };

    if (s->dir[0] == '\0') {
        strcpy(s->dir, "/tmp/infer-redis-XXXXXX");
        if (mkdtemp(s->dir) == NULL) {
            rs_bail("mkdtemp: %s", strerror(errno));
        }
        snprintf(s->path, sizeof(s->path), "%s/s", s->dir);
    }
    if (s->port == 0) {
        s->port = rs_free_port();
    }
    (void) unlink(s->path);
    parent = getpid();
    s->pid = fork();
    if (s->pid == 0) {
        rs_exec(s, extra, parent);
    }

    strcpy(un.sun_path, s->path);
    for (i = 0; i < 1000 && !up; i++) {
        fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        up = connect(fd, (struct sockaddr *) &un, sizeof(un)) == 0;
        close(fd);
        if (!up) {
            (void) poll(NULL, 0, 10);
        }
    }
    if (!up) {
        rs_bail("redis-server does not start: see %s/log", s->dir);
    }
}

static void
rs_kill(rs_server_t *s)
{
    if (s->pid > 0) {
        (void) kill(s->pid, SIGKILL);
        (void) waitpid(s->pid, NULL, 0);
        s->pid = 0;
    }
}

static void
rs_stop(rs_server_t *s)
{
    DIR            *d;
    char            path[512];
    struct dirent  *e;

    rs_kill(s);
    d = opendir(s->dir);
    while (d != NULL && (e = readdir(d)) != NULL) {
        snprintf(path, sizeof(path), "%s/%s", s->dir, e->d_name);
        (void) unlink(path);
    }
    if (d != NULL) {
        closedir(d);
    }
    (void) rmdir(s->dir);
    memset(s, 0, sizeof(*s));
}

static infer_redis_shared_t *
rs_shared(void)
{
    infer_redis_shared_t  *s;

    s = mmap(NULL, sizeof(*s), PROT_READ | PROT_WRITE,
             MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (s == MAP_FAILED) {
        rs_bail("mmap: %s", strerror(errno));
    }
    return s;
}

static infer_redis_conf_t
rs_conf(uint16_t port)
{
    infer_redis_conf_t  c = {
        .n_servers = 1, .connections = 4, .connect_ms = RS_CONNECT_MS,
        .command_ms = RS_COMMAND_MS, .failures = 3, .retry_ms = 500,
        .max_value = 1 << 20
    };

    strcpy(c.server[0].host, "127.0.0.1");
    c.server[0].port = port;
    return c;
}

static infer_redis_t *
rs_client(const infer_redis_conf_t *conf, infer_redis_shared_t *shared)
{
    infer_redis_t  *r;

    if (infer_redis_new(&r, conf, shared) != INFER_OK) {
        rs_bail("no client");
    }
    return r;
}

/* Any command, by a connection of its own; 1: a reply that is no error. */
static int
rs_command(uint16_t port, redis_reply_t **out, uint32_t n, const char **arg)
{
    int                    rc, asked = 0;
    uint32_t               i;
    infer_buf_t            b = { 0 };
    infer_redis_t         *r;
    redis_reply_t         *reply[REDIS_PENDING];
    infer_redis_conf_t     conf = rs_conf(port);
    infer_redis_shared_t  *shared = rs_shared();
    redis_command_t        cmd = { .n = 1,
                                   .budget = { 1 << 20, 10000, 1, 0 } };

    conf.connect_ms = conf.command_ms = 5000;
    infer_buf_printf(&b, "*%u\r\n", n);
    for (i = 0; i < n; i++) {
        infer_buf_printf(&b, "$%zu\r\n%s\r\n", strlen(arg[i]), arg[i]);
    }
    cmd.data = b.data;
    cmd.len = b.len;
    r = rs_client(&conf, shared);
    rc = infer_redis_ask(r, &r->server[0], &cmd,
                         infer_redis_now_us() + 5000000, reply, &asked);
    if (rc == INFER_OK && reply[0]->type == REDIS_REPLY_ERROR) {
        diag("%s: %s", arg[0], reply[0]->str);
        rc = INFER_BUSY;
    }
    if (out != NULL) {
        *out = rc == INFER_OK ? reply[0] : NULL;
        reply[0] = rc == INFER_OK ? NULL : reply[0];
    }
    infer_redis_free_replies(reply);
    infer_buf_free(&b);
    infer_redis_free(r);
    (void) munmap(shared, sizeof(*shared));
    return rc == INFER_OK;
}

#define RS_COMMAND(port, out, ...)                                           \
    rs_command(port, out,                                                    \
               sizeof((const char *[]) { __VA_ARGS__ }) / sizeof(char *),    \
               (const char *[]) { __VA_ARGS__ })

static int
rs_get(infer_redis_t *r, const char *key, char *out, size_t cap)
{
    int                rc;
    void              *value;
    size_t             len;
    uint64_t           count[2];
    const char *const  none[2] = { NULL, NULL };

    rc = infer_redis_get(r, key, none, &value, &len, count);
    out[0] = '\0';
    if (rc == INFER_OK && len < cap) {
        memcpy(out, value, len);
        out[len] = '\0';
    }
    free(value);
    return rc;
}

/* Descriptors of this process. */
static uint32_t
rs_descriptors(void)
{
    DIR       *d = opendir("/proc/self/fd");
    uint32_t   n = 0;

    while (d != NULL && readdir(d) != NULL) {
        n++;
    }
    closedir(d);
    return n;
}

/* Of this process, the most it ever had. */
static uint64_t
rs_room_kb(void)
{
    char      line[128];
    FILE     *f = fopen("/proc/self/status", "r");
    uint64_t  kb = 0;

    while (f != NULL && fgets(line, sizeof(line), f) != NULL) {
        if (sscanf(line, "VmPeak: %lu", &kb) == 1) {
            break;
        }
    }
    if (f != NULL) {
        (void) fclose(f);
    }
    return kb;
}

#endif
