/*
 * file_latency.c: how long nginx takes for a static file.
 *
 *   file_latency PORT PATH [seconds [requests per second]]
 *
 * One keep-alive connection, requests at random distances, so that they meet
 * the server in any state. The client runs under SCHED_FIFO where it may:
 * what is measured is the server's delay, not that of the client's wake-ups.
 * Prints one line of JSON, times in milliseconds.
 */

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MAX_TIMES = 200000, ANSWER = 65536 };

static double  times[MAX_TIMES];


static double
now_ms(void)
{
    struct timespec  ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double) ts.tv_sec * 1e3 + (double) ts.tv_nsec / 1e6;
}

static int
order(const void *a, const void *b)
{
    double  x = *(const double *) a, y = *(const double *) b;

    return x < y ? -1 : x > y;
}

static int
dial(uint16_t port)
{
    int                 fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    struct sockaddr_in  to = { .sin_family = AF_INET,
                               .sin_port = htons(port),
                               .sin_addr = { htonl(INADDR_LOOPBACK) } };

    if (fd < 0 || connect(fd, (struct sockaddr *) &to, sizeof(to)) != 0) {
        return -1;
    }
    (void) setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    return fd;
}

/* Bytes of one whole answer with a Content-Length; -1 for another one. */
static long
take(int fd)
{
    static char  buf[ANSWER + 1];
    long         n = 0, got, body;
    char        *end, *length;

    for ( ;; ) {
        got = read(fd, buf + n, (size_t) (ANSWER - n));
        if (got <= 0) {
            return -1;
        }
        n += got;
        buf[n] = '\0';
        end = strstr(buf, "\r\n\r\n");
        length = strstr(buf, "Content-Length:");
        if (end == NULL) {
            continue;
        }
        if (length == NULL || strncmp(buf + 9, "200", 3) != 0) {
            return -1;
        }
        body = atol(length + 15);
        if (n >= end + 4 - buf + body) {
            return n;
        }
    }
}

int
main(int argc, char **argv)
{
    char                ask[512];
    int                 fd, len, fifo;
    double              end, start, rate, pause_ms;
    long                n = 0;
    struct timespec     ts;
    struct sched_param  param = { .sched_priority = 1 };

    if (argc < 3 || (fd = dial((uint16_t) atoi(argv[1]))) < 0) {
        fprintf(stderr, "usage: file_latency PORT PATH [seconds [rate]]\n");
        return 1;
    }
    rate = argc > 4 ? atof(argv[4]) : 400;
    len = snprintf(ask, sizeof(ask),
                   "GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n", argv[2]);
    fifo = sched_setscheduler(0, SCHED_FIFO, &param) == 0;

    end = now_ms() + 1e3 * (argc > 3 ? atof(argv[3]) : 4);
    while ((start = now_ms()) < end && n < MAX_TIMES) {
        if (write(fd, ask, (size_t) len) != len || take(fd) < 0) {
            fprintf(stderr, "file_latency: no answer\n");
            return 1;
        }
        times[n++] = now_ms() - start;
        pause_ms = 2e3 / rate * ((double) rand() / RAND_MAX);
        ts = (struct timespec) { (time_t) (pause_ms / 1e3),
                                 (long) (pause_ms * 1e6) % 1000000000 };
        (void) nanosleep(&ts, NULL);
    }
    qsort(times, (size_t) n, sizeof(times[0]), order);
    printf("{\"n\": %ld, \"p50\": %.3f, \"p99\": %.3f, \"max\": %.3f, "
           "\"fifo\": %d}\n", n, times[n / 2], times[n * 99 / 100],
           times[n - 1], fifo);
    close(fd);
    return 0;
}
