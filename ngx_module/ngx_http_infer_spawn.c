
/*
 * Processes: the engine's binary, a check of a model, an engine. The only
 * file that knows fork and exec.
 *
 * The check is a child of the master, with the workers' privileges. The
 * engine itself is started by a worker through a second fork, so that it
 * belongs to init, in a session of its own. Between a fork and its exec only
 * async-signal-safe calls are made: a worker has threads.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include <dlfcn.h>
#include <grp.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "ngx_http_infer_module.h"


#define NGX_HTTP_INFER_BINARY         "ngx_infer_engine"
#define NGX_HTTP_INFER_CHECK_TIME     60000

/* descriptors of an engine, then its binary, closed by exec */

#define NGX_HTTP_INFER_ENGINE_FDS     (INFER_FD_ENTRY0 + INFER_MAX_ENTRIES)

/* of a check: null, answer, errors, model, image, template, binary */

#define NGX_HTTP_INFER_CHECK_FDS      7

#ifndef AT_EMPTY_PATH
#define AT_EMPTY_PATH                 0x1000
#endif

#ifndef SYS_close_range
#define SYS_close_range               436
#endif


static ngx_int_t ngx_http_infer_engine_name(ngx_http_infer_zone_t *zone,
    u_char *name, size_t size);
static void ngx_http_infer_check_child(int *fds, char *const *argv,
    char *const *env, ngx_core_conf_t *ccf);
static ngx_int_t ngx_http_infer_check_read(int fd, char *answer, size_t size,
    ngx_log_t *log);
static ngx_int_t ngx_http_infer_check_end(pid_t pid, ngx_int_t rc,
    char *answer, size_t size, ngx_log_t *log);
static void ngx_http_infer_child_signals(void);
static ngx_int_t ngx_http_infer_child_fds(int *fds, int n);
static void ngx_http_infer_child_close(int first);
static void ngx_http_infer_child_exec(int fd, char *const *argv,
    char *const *env);
static ngx_int_t ngx_http_infer_engine_control(ngx_http_infer_bus_t *bus,
    ngx_log_t *log);


/* beside the module, wherever that was loaded from, or infer_engine path= */

static ngx_int_t
ngx_http_infer_engine_name(ngx_http_infer_zone_t *zone, u_char *name,
    size_t size)
{
    u_char   *p;
    ssize_t   n;
    Dl_info   info;

    if (zone->engine != NULL && zone->engine->path.len != 0) {
        if (zone->engine->path.len >= size) {
            return NGX_ERROR;
        }

        ngx_cpystrn(name, zone->engine->path.data,
                    zone->engine->path.len + 1);
        return NGX_OK;
    }

    /* a module linked into nginx is found by a name that may have no path */

    if (dladdr((void *) &ngx_http_infer_module, &info) != 0
        && info.dli_fname != NULL && info.dli_fname[0] == '/')
    {
        n = ngx_strlen(info.dli_fname);

        if ((size_t) n >= size) {
            return NGX_ERROR;
        }

        ngx_memcpy(name, info.dli_fname, n);

    } else {
        n = readlink("/proc/self/exe", (char *) name, size - 1);

        if (n == -1) {
            return NGX_ERROR;
        }
    }

    for (p = name + n; p > name && p[-1] != '/'; p--) { /* void */ }

    if ((size_t) (p - name) + sizeof(NGX_HTTP_INFER_BINARY) > size) {
        return NGX_ERROR;
    }

    ngx_memcpy(p, NGX_HTTP_INFER_BINARY, sizeof(NGX_HTTP_INFER_BINARY));

    return NGX_OK;
}


int
ngx_http_infer_engine_open(ngx_http_infer_zone_t *zone, ngx_log_t *log)
{
    int                      fd;
    u_char                   name[NGX_MAX_PATH];
    ngx_http_infer_place_t  *place;

    place = zone->engine ? &zone->engine->place : &zone->place;

    if (ngx_http_infer_engine_name(zone, name, NGX_MAX_PATH) != NGX_OK) {
        ngx_http_infer_emerg(log, place, ngx_errno,
                             "\"infer_engine\": cannot tell where the engine "
                             "is, use \"path=\"");
        return -1;
    }

    fd = open((char *) name, O_RDONLY|O_CLOEXEC|O_NONBLOCK|O_NOCTTY);

    if (fd == -1) {
        ngx_http_infer_emerg(log, place, ngx_errno,
                             "\"infer_engine\": open() \"%s\" failed", name);
    }

    return fd;
}


/*
 * Runs the binary with argv and env; fds are the model, the image and the template
 * (or -1), which become 3, 4 and 5. NGX_DECLINED: the answer is the sentence
 * of an error; NGX_OK: it begins with "ok".
 */

ngx_int_t
ngx_http_infer_engine_check(int engine_fd, char *const *argv,
    char *const *env, const int *fds, ngx_core_conf_t *ccf, char *answer,
    size_t size, ngx_log_t *log)
{
    int        out[2], null, child[NGX_HTTP_INFER_CHECK_FDS];
    pid_t      pid;
    ngx_int_t  rc;

    null = open("/dev/null", O_RDWR|O_CLOEXEC);

    if (null == -1) {
        ngx_log_error(NGX_LOG_EMERG, log, ngx_errno,
                      "open(\"/dev/null\") failed");
        return NGX_ERROR;
    }

    if (pipe2(out, O_CLOEXEC) == -1) {
        ngx_log_error(NGX_LOG_EMERG, log, ngx_errno, "pipe2() failed");
        (void) close(null);
        return NGX_ERROR;
    }

    child[0] = null;
    child[1] = out[1];
    child[2] = STDERR_FILENO;
    child[3] = fds[0];
    child[4] = fds[1];
    child[5] = fds[2] == -1 ? null : fds[2];
    child[6] = engine_fd;

    pid = fork();

    if (pid == 0) {
        ngx_http_infer_check_child(child, argv, env, ccf);
    }

    (void) close(out[1]);
    (void) close(null);

    if (pid == -1) {
        ngx_log_error(NGX_LOG_EMERG, log, ngx_errno, "fork() failed");
        (void) close(out[0]);
        return NGX_ERROR;
    }

    rc = ngx_http_infer_check_read(out[0], answer, size, log);

    (void) close(out[0]);

    return ngx_http_infer_check_end(pid, rc, answer, size, log);
}


/* the master has no threads, so that initgroups() is safe here */

static void
ngx_http_infer_check_child(int *fds, char *const *argv, char *const *env,
    ngx_core_conf_t *ccf)
{
    ngx_http_infer_child_signals();

    if (geteuid() == 0 && ccf->user != (ngx_uid_t) NGX_CONF_UNSET_UINT
        && (setgid(ccf->group) == -1
            || initgroups(ccf->username, ccf->group) == -1
            || setuid(ccf->user) == -1))
    {
        _exit(INFER_EXIT_FAILED);
    }

    if (ngx_http_infer_child_fds(fds, NGX_HTTP_INFER_CHECK_FDS) != NGX_OK) {
        _exit(INFER_EXIT_FAILED);
    }

    (void) prctl(PR_SET_PDEATHSIG, SIGKILL);

    ngx_http_infer_child_exec(NGX_HTTP_INFER_CHECK_FDS - 1, argv, env);
}


/* until end of file, or until the time or the room is over */

static ngx_int_t
ngx_http_infer_check_read(int fd, char *answer, size_t size, ngx_log_t *log)
{
    int            rc;
    size_t         len;
    ssize_t        n;
    int64_t        left;
    uint64_t       end;
    struct pollfd  pfd;

    len = 0;
    end = infer_now_us() / 1000 + NGX_HTTP_INFER_CHECK_TIME;

    for ( ;; ) {
        left = end - infer_now_us() / 1000;

        if (left <= 0) {
            ngx_snprintf((u_char *) answer, size,
                         "the engine's check took longer than %d s%Z",
                         NGX_HTTP_INFER_CHECK_TIME / 1000);
            return NGX_ABORT;
        }

        pfd.fd = fd;
        pfd.events = POLLIN;

        rc = poll(&pfd, 1, left);

        if (rc == 0 || (rc == -1 && ngx_errno == NGX_EINTR)) {
            continue;
        }

        n = read(fd, answer + len, size - 1 - len);

        if (n == -1 && ngx_errno == NGX_EINTR) {
            continue;
        }

        if (n <= 0 || len + n == size - 1) {
            answer[len] = '\0';
            return n == 0 ? NGX_OK : NGX_ERROR;
        }

        len += n;
    }
}


static ngx_int_t
ngx_http_infer_check_end(pid_t pid, ngx_int_t rc, char *answer, size_t size,
    ngx_log_t *log)
{
    int     status;
    pid_t   wpid;
    char   *p;

    if (rc != NGX_OK) {
        (void) kill(pid, SIGKILL);
    }

    do {
        wpid = waitpid(pid, &status, 0);
    } while (wpid == -1 && ngx_errno == NGX_EINTR);

    if (rc == NGX_ABORT) {
        return NGX_DECLINED;
    }

    /* one line of printable characters, whatever a bad process wrote */

    for (p = answer; *p != '\0' && *p != '\n'; p++) {
        if ((u_char) *p < 0x20 || *p == 0x7f) {
            *p = '?';
        }
    }

    *p = '\0';

    /* a signal handler of the single process may have been faster */

    if (wpid == -1) {
        status = ngx_strncmp(answer, "ok ", 3) == 0 ? 0 : 1 << 8;
    }

    if (rc == NGX_OK && WIFEXITED(status) && WEXITSTATUS(status) == 0
        && ngx_strncmp(answer, "ok ", 3) == 0)
    {
        return NGX_OK;
    }

    if (rc == NGX_OK && WIFEXITED(status)
        && ngx_strncmp(answer, "error ", 6) == 0)
    {
        ngx_memmove(answer, answer + 6, p - answer - 5);
        return NGX_DECLINED;
    }

    if (WIFSIGNALED(status)) {
        ngx_snprintf((u_char *) answer, size,
                     "the engine's check ended by signal %d%Z",
                     WTERMSIG(status));

    } else {
        ngx_snprintf((u_char *) answer, size,
                     "the engine's check ended with code %d and no answer%Z",
                     WEXITSTATUS(status));
    }

    return NGX_DECLINED;
}


/* nginx's handlers and the master's blocked signals are not for a child */

static void
ngx_http_infer_child_signals(void)
{
    int               signo;
    sigset_t          set;
    struct sigaction  sa;

    ngx_memzero(&sa, sizeof(struct sigaction));
    sa.sa_handler = SIG_DFL;
    sigemptyset(&sa.sa_mask);

    for (signo = 1; signo < NSIG; signo++) {
        (void) sigaction(signo, &sa, NULL);
    }

    sigemptyset(&set);
    (void) sigprocmask(SIG_SETMASK, &set, NULL);
}


/* makes descriptor i of each fds[i]; a source that is in the way moves up */

static ngx_int_t
ngx_http_infer_child_fds(int *fds, int n)
{
    int  i, j, fd;

    for (i = 0; i < n; i++) {

        if (fds[i] == i) {
            if (fcntl(i, F_SETFD, 0) == -1) {
                return NGX_ERROR;
            }

            continue;
        }

        fd = -1;

        for (j = i + 1; j < n; j++) {
            if (fds[j] != i) {
                continue;
            }

            if (fd == -1) {
                fd = fcntl(i, F_DUPFD, n);

                if (fd == -1) {
                    return NGX_ERROR;
                }
            }

            fds[j] = fd;
        }

        if (dup2(fds[i], i) == -1) {
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}


static void
ngx_http_infer_child_close(int first)
{
    int            fd;
    struct rlimit  rl;

    /* EPERM (a container's filter) counts as ENOSYS */

    if (syscall(SYS_close_range, first, ~0U, 0) == 0) {
        return;
    }

    if (getrlimit(RLIMIT_NOFILE, &rl) == -1 || rl.rlim_cur > 1048576) {
        rl.rlim_cur = 1048576;
    }

    for (fd = first; fd < (int) rl.rlim_cur; fd++) {
        (void) close(fd);
    }
}


/* fd is the highest descriptor that is kept, and the binary */

static void
ngx_http_infer_child_exec(int fd, char *const *argv, char *const *env)
{
    ngx_http_infer_child_close(fd + 1);

    (void) fcntl(fd, F_SETFD, FD_CLOEXEC);
    (void) syscall(SYS_execveat, fd, "", argv, env, AT_EMPTY_PATH);

    _exit(INFER_EXIT_FAILED);
}


void
ngx_http_infer_engine_spawn(ngx_http_infer_bus_t *bus, ngx_log_t *log)
{
    int     fds[NGX_HTTP_INFER_ENGINE_FDS + 1], null;
    char   *argv[5];
    pid_t   pid;

    /* messages that an engine left unread; their descriptors go with them */

    while (recv(bus->control[1], argv, 1, MSG_DONTWAIT|MSG_TRUNC) > 0) {
        /* void */
    }

    if (ngx_http_infer_engine_control(bus, log) != NGX_OK) {
        return;
    }

    null = open("/dev/null", O_RDWR|O_CLOEXEC);

    if (null == -1) {
        ngx_log_error(NGX_LOG_CRIT, log, ngx_errno,
                      "open(\"/dev/null\") failed");
        return;
    }

    fds[0] = null;
    fds[1] = null;
    fds[2] = STDERR_FILENO;
    fds[INFER_FD_BUS] = bus->bus.fd;
    fds[INFER_FD_LIFELINE] = bus->lifeline[0];
    fds[INFER_FD_CONTROL] = bus->control[1];
    fds[INFER_FD_WAKE] = bus->wake_fd;

    ngx_memcpy(&fds[INFER_FD_ENTRY0], bus->entry_fd, sizeof(bus->entry_fd));

    fds[NGX_HTTP_INFER_ENGINE_FDS] = bus->engine_fd;

    argv[0] = NGX_HTTP_INFER_BINARY;
    argv[1] = "--run";
    argv[2] = (char *) infer_build_id();
    argv[3] = bus->name;
    argv[4] = NULL;

    pid = fork();

    if (pid == 0) {
        (void) setsid();
        ngx_http_infer_child_signals();

        if (fork() != 0) {
            _exit(INFER_EXIT_OK);
        }

        if (ngx_http_infer_child_fds(fds, NGX_HTTP_INFER_ENGINE_FDS + 1)
            != NGX_OK)
        {
            _exit(INFER_EXIT_FAILED);
        }

        ngx_http_infer_child_exec(NGX_HTTP_INFER_ENGINE_FDS, argv, bus->env);
    }

    (void) close(null);

    if (pid == -1) {
        ngx_log_error(NGX_LOG_CRIT, log, ngx_errno,
                      "fork() of infer engine \"%s\" failed", bus->name);
        return;
    }

    /* nginx's handler of SIGCHLD may reap it before us: ECHILD is fine */

    while (waitpid(pid, NULL, 0) == -1 && ngx_errno == NGX_EINTR) {
        /* void */
    }
}


/* model files and text images; they wait in the socket for the engine */

static ngx_int_t
ngx_http_infer_engine_control(ngx_http_infer_bus_t *bus, ngx_log_t *log)
{
    int              fds[2];
    ngx_uint_t       i;
    struct iovec     iov;
    struct msghdr    msg;
    struct cmsghdr  *cmsg;
    infer_control_t  ctl;

    union {
        struct cmsghdr  cm;
        char            space[CMSG_SPACE(2 * sizeof(int))];
    } control;

    for (i = 0; i < bus->nmodels; i++) {
        ngx_memzero(&ctl, sizeof(infer_control_t));
        ctl.type = INFER_CTL_MODEL;
        ctl.model = i;

        iov.iov_base = (void *) &ctl;
        iov.iov_len = sizeof(infer_control_t);

        ngx_memzero(&control, sizeof(control));
        ngx_memzero(&msg, sizeof(struct msghdr));
        msg.msg_iov = &iov;
        msg.msg_iovlen = 1;
        msg.msg_control = &control;
        msg.msg_controllen = sizeof(control.space);

        cmsg = CMSG_FIRSTHDR(&msg);
        cmsg->cmsg_len = CMSG_LEN(sizeof(fds));
        cmsg->cmsg_level = SOL_SOCKET;
        cmsg->cmsg_type = SCM_RIGHTS;

        fds[0] = bus->models[i].fd;
        fds[1] = bus->models[i].image_fd;
        ngx_memcpy(CMSG_DATA(cmsg), fds, sizeof(fds));

        if (sendmsg(bus->control[0], &msg, MSG_DONTWAIT|MSG_NOSIGNAL) == -1) {
            ngx_log_error(NGX_LOG_CRIT, log, ngx_errno,
                          "sendmsg() to infer engine \"%s\" failed",
                          bus->name);
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}
