/*
 * test_redis_cluster.c: the client of L2 against a Redis Cluster of three
 * nodes on loopback: slots, redirects while one is moved, a node that is
 * killed or stands still, a cluster that is down, and forged topologies.
 */

#include "redis_site.h"

#define NODES  3

static rs_server_t            node[NODES + 1];     /* and a replica */
static char                   id[NODES][64];
static infer_redis_shared_t  *shared;


/* ---- the cluster ---- */

static const char *
port_text(uint32_t i, char text[8])
{
    snprintf(text, 8, "%u", node[i].port);
    return text;
}

static int
info_has(uint32_t i, const char *text)
{
    int             has = 0;
    redis_reply_t  *r;

    if (RS_COMMAND(node[i].port, &r, "CLUSTER", "INFO")) {
        has = strstr(r->str, text) != NULL;
        infer_redis_reply_free(r);
    }
    return has;
}

static int
wait_info(const char *text, uint32_t from, uint32_t to)
{
    int       tries;
    uint32_t  i, good;

    for (tries = 0; tries < 300; tries++) {
        for (good = 0, i = from; i < to; i++) {
            good += info_has(i, text);
        }
        if (good == to - from) {
            return 1;
        }
        (void) poll(NULL, 0, 50);
    }
    return 0;
}

static void
start_node(uint32_t i)
{
    /* the port of the bus is 10000 more by default, which may be too much */
    char               bus[8];
    const char *const  extra[] = {
        "--cluster-enabled", "yes", "--cluster-port", bus,
        "--cluster-node-timeout", "1000",
        "--cluster-allow-reads-when-down", "no", NULL
    };

    if (node[i].port == 0) {
        node[i].port = rs_free_port();
    }
    snprintf(bus, sizeof(bus), "%u", rs_free_port());
    rs_start(&node[i], extra);
}

/* Node 0 gets to know node i. */
static void
meet(uint32_t i)
{
    char            port[8], bus[8];
    redis_reply_t  *r;

    if (!RS_COMMAND(node[i].port, &r, "CONFIG", "GET", "cluster-port")) {
        rs_bail("cluster-port");
    }
    snprintf(bus, sizeof(bus), "%s", r->last->str);
    infer_redis_reply_free(r);
    if (!RS_COMMAND(node[0].port, NULL, "CLUSTER", "MEET", "127.0.0.1",
                    port_text(i, port), bus))
    {
        rs_bail("meet");
    }
}

static void
start_cluster(void)
{
    char            first[8], last[8];
    uint32_t        i;
    redis_reply_t  *r;

    for (i = 0; i < NODES; i++) {
        start_node(i);
        snprintf(first, sizeof(first), "%u", i * 16384 / NODES);
        snprintf(last, sizeof(last), "%u", (i + 1) * 16384 / NODES - 1);
        if (!RS_COMMAND(node[i].port, NULL, "CLUSTER", "ADDSLOTSRANGE", first,
                        last)
            || !RS_COMMAND(node[i].port, NULL, "CLUSTER", "SET-CONFIG-EPOCH",
                           (const char *[]) { "1", "2", "3" }[i])
            || !RS_COMMAND(node[i].port, &r, "CLUSTER", "MYID"))
        {
            rs_bail("cluster: node %u", i);
        }
        snprintf(id[i], sizeof(id[i]), "%s", r->str);
        infer_redis_reply_free(r);
    }
    for (i = 1; i < NODES; i++) {
        meet(i);
    }
    if (!wait_info("cluster_known_nodes:3", 0, NODES)
        || !wait_info("cluster_state:ok", 0, NODES))
    {
        rs_bail("no cluster");
    }
}

/* Which node has a slot at first. */
static uint32_t
home(uint32_t slot)
{
    uint32_t  i = 0;

    while (slot >= (i + 1) * 16384 / NODES) {
        i++;
    }
    return i;
}

/* A key of that node: k0, k1 ... */
static const char *
key_of(uint32_t want, char key[16])
{
    uint32_t  n;

    for (n = 0; n < 10000; n++) {
        snprintf(key, 16, "k%u", n);
        if (home(infer_redis_slot(key)) == want) {
            break;
        }
    }
    return key;
}

static infer_redis_conf_t
conf_of(uint32_t seed)
{
    infer_redis_conf_t  c = rs_conf(node[seed].port);

    c.cluster = 1;
    c.connections = 8;
    return c;
}

/* ---- tests ---- */

static void
test_slots(void)
{
    ok(infer_redis_slot("123456789") == 0x31c3
       && infer_redis_slot("foo") == 12182
       && infer_redis_slot("{user1000}.following")
          == infer_redis_slot("{user1000}.followers")
       && infer_redis_slot("foo{}{bar}") != infer_redis_slot("bar")
       && infer_redis_slot("foo{{bar}}zap") == infer_redis_slot("{bar")
       && infer_redis_slot("foo{bar}{zap}") == infer_redis_slot("bar"),
       "slots as the specification has them");
}

static void
test_calls(void)
{
    char               key[16], other[16], third[16], out[64];
    void              *value;
    size_t             len;
    uint32_t           i, bad = 0;
    uint64_t           n, count[2];
    infer_redis_t     *r;
    infer_redis_conf_t conf = conf_of(1);
    const char        *counter[2];

    r = rs_client(&conf, shared);
    for (i = 0; i < 60; i++) {
        snprintf(key, sizeof(key), "key%u", i);
        bad += infer_redis_set(r, key, key, strlen(key), 60000) != INFER_OK;
        bad += rs_get(r, key, out, sizeof(out)) != INFER_OK
               || strcmp(out, key) != 0;
    }
    ok(bad == 0 && atomic_load(&shared->redirects) == 0
       && atomic_load(&shared->connects) <= NODES + 1,
       "60 keys on three nodes, no redirect");
    ok(infer_redis_lock(r, "l", "me", 1000) == INFER_OK
       && infer_redis_lock(r, "l", "you", 1000) == INFER_AGAIN
       && infer_redis_renew(r, "l", "me", 1000) == INFER_OK
       && infer_redis_unlock(r, "l", "you") == INFER_AGAIN
       && infer_redis_unlock(r, "l", "me") == INFER_OK
       && infer_redis_del(r, "key1") == INFER_OK
       && infer_redis_del(r, "key1") == INFER_AGAIN, "locks");

    (void) infer_redis_set(r, key_of(0, key), "v", 1, 60000);
    counter[0] = key_of(1, other);
    counter[1] = "{x}c";
    snprintf(third, sizeof(third), "%s", counter[1]);
    ok(infer_redis_count(r, counter[0], &n) == INFER_OK
       && infer_redis_count(r, third, &n) == INFER_OK
       && infer_redis_count(r, third, &n) == INFER_OK
       && infer_redis_get(r, key, counter, &value, &len, count) == INFER_OK
       && len == 1 && count[0] == 1 && count[1] == 2,
       "a value and counters of other nodes");
    free(value);
    infer_redis_free(r);

    /* one exchange where they share a tag */
    r = rs_client(&conf, shared);
    counter[0] = "{t}a";
    counter[1] = "{t}b";
    (void) infer_redis_get(r, "{t}v", counter, &value, &len, count);
    ok(atomic_load(&shared->failed) == 0
       && infer_redis_get(r, "{t}v", counter, &value, &len, count)
          == INFER_AGAIN && count[0] == 0, "or of the same");
    infer_redis_free(r);
}

/* Slot of key from node 0 to node 1, step by step. */
static void
test_moved(void)
{
    char                key[16], slot[8], port[8], out[64];
    uint64_t            redirects;
    infer_redis_t      *r;
    infer_redis_conf_t  conf = conf_of(0);

    memset(shared, 0, sizeof(*shared));
    r = rs_client(&conf, shared);
    (void) key_of(0, key);
    snprintf(slot, sizeof(slot), "%u", infer_redis_slot(key));
    (void) infer_redis_set(r, key, "old", 3, 60000);

    (void) RS_COMMAND(node[1].port, NULL, "CLUSTER", "SETSLOT", slot,
                      "IMPORTING", id[0]);
    (void) RS_COMMAND(node[0].port, NULL, "CLUSTER", "SETSLOT", slot,
                      "MIGRATING", id[1]);
    ok(rs_get(r, key, out, sizeof(out)) == INFER_OK
       && atomic_load(&shared->redirects) == 0,
       "a slot that is leaving still answers");
    (void) RS_COMMAND(node[0].port, NULL, "MIGRATE", "127.0.0.1",
                      port_text(1, port), key, "0", "5000");
    ok(rs_get(r, key, out, sizeof(out)) == INFER_OK && !strcmp(out, "old")
       && atomic_load(&shared->redirects) == 1,
       "a key that has left is asked for there");
    ok(infer_redis_set(r, key, "new", 3, 60000) == INFER_OK
       && rs_get(r, key, out, sizeof(out)) == INFER_OK && !strcmp(out, "new")
       && atomic_load(&shared->redirects) == 3, "and written, each time");

    (void) RS_COMMAND(node[1].port, NULL, "CLUSTER", "SETSLOT", slot, "NODE",
                      id[1]);
    (void) RS_COMMAND(node[0].port, NULL, "CLUSTER", "SETSLOT", slot, "NODE",
                      id[1]);
    redirects = atomic_load(&shared->redirects);
    ok(rs_get(r, key, out, sizeof(out)) == INFER_OK && !strcmp(out, "new")
       && atomic_load(&shared->redirects) == redirects + 1,
       "a slot that has moved");
    ok(rs_get(r, key, out, sizeof(out)) == INFER_OK
       && infer_redis_del(r, key) == INFER_OK
       && atomic_load(&shared->redirects) == redirects + 1, "once");
    infer_redis_free(r);
    ok(atomic_load(&shared->failed) == 0, "no call failed");

    /* back again, for the other tests */
    (void) RS_COMMAND(node[0].port, NULL, "CLUSTER", "SETSLOT", slot,
                      "IMPORTING", id[1]);
    (void) RS_COMMAND(node[0].port, NULL, "CLUSTER", "SETSLOT", slot, "NODE",
                      id[0]);
    (void) RS_COMMAND(node[1].port, NULL, "CLUSTER", "SETSLOT", slot, "NODE",
                      id[0]);
}

static void
test_frozen(void)
{
    char                key[16], out[8];
    uint32_t            i, good = 0, bad = 0;
    uint64_t            ms;
    infer_redis_t      *r;
    infer_redis_conf_t  conf = conf_of(2);

    memset(shared, 0, sizeof(*shared));
    r = rs_client(&conf, shared);
    (void) infer_redis_set(r, key_of(0, key), "v", 1, 60000);
    (void) kill(node[2].pid, SIGSTOP);
    (void) key_of(2, key);
    for (i = 0; i < 5; i++) {
        ms = rs_now_ms();
        bad += rs_get(r, key, out, sizeof(out)) != INFER_BUSY;
        ms = rs_now_ms() - ms;
        bad += ms > RS_CONNECT_MS + RS_COMMAND_MS + RS_SLACK_MS;
    }
    ok(bad == 0 && atomic_load(&shared->refused) >= 1,
       "a node that stands still: its keys are misses, in time");
    (void) key_of(0, key);
    for (i = 0; i < 5; i++) {
        ms = rs_now_ms();
        good += rs_get(r, key, out, sizeof(out)) == INFER_OK;
        good += rs_now_ms() - ms < RS_SLACK_MS;
    }
    (void) kill(node[2].pid, SIGCONT);
    ok(good >= 6, "other keys are not (%u)", good);
    infer_redis_free(r);
    (void) wait_info("cluster_state:ok", 0, NODES);
}

typedef struct {
    infer_redis_t    *redis;
    _Atomic int      *ending;
    uint32_t          id, good, busy, odd;
    uint64_t          longest_ms;
} worker_t;

static void *
work(void *arg)
{
    int        rc;
    char       key[16], out[16];
    uint32_t   i;
    uint64_t   ms;
    worker_t  *w = arg;

    for (i = 0; !atomic_load(w->ending); i++) {
        snprintf(key, sizeof(key), "w%u-%u", w->id, i % 50);
        ms = rs_now_ms();
        rc = i % 3 == 0
             ? infer_redis_set(w->redis, key, key, strlen(key), 60000)
             : rs_get(w->redis, key, out, sizeof(out));
        ms = rs_now_ms() - ms;
        w->longest_ms = ms > w->longest_ms ? ms : w->longest_ms;
        w->good += rc == INFER_OK || rc == INFER_AGAIN;
        w->busy += rc == INFER_BUSY;
        w->odd += rc != INFER_OK && rc != INFER_AGAIN && rc != INFER_BUSY;
        w->odd += rc == INFER_OK && i % 3 != 0 && strcmp(key, out) != 0;
    }
    return NULL;
}

/* A node is killed under eight threads; then the cluster is down, and comes
 * back. */
static void
test_killed(void)
{
    char                key[16], out[8];
    uint32_t            i, good = 0, busy = 0, odd = 0, open;
    uint64_t            longest = 0, until;
    pthread_t           thread[8];
    worker_t            w[8];
    _Atomic int         ending = 0;
    infer_redis_t      *r;
    infer_redis_conf_t  conf = conf_of(0);

    memset(shared, 0, sizeof(*shared));
    open = rs_descriptors();
    r = rs_client(&conf, shared);
    for (i = 0; i < 8; i++) {
        w[i] = (worker_t) { .redis = r, .ending = &ending, .id = i };
        if (pthread_create(&thread[i], NULL, work, &w[i]) != 0) {
            rs_bail("no thread");
        }
    }
    (void) poll(NULL, 0, 300);
    rs_kill(&node[2]);
    (void) poll(NULL, 0, 1500);
    atomic_store(&ending, 1);
    for (i = 0; i < 8; i++) {
        (void) pthread_join(thread[i], NULL);
        good += w[i].good;
        busy += w[i].busy;
        odd += w[i].odd;
        longest = w[i].longest_ms > longest ? w[i].longest_ms : longest;
    }
    ok(odd == 0 && good > 100 && busy > 0
       && longest < RS_CONNECT_MS + RS_COMMAND_MS + RS_SLACK_MS,
       "a node killed under 8 threads: %u calls went well, %u were misses, "
       "the longest took %u ms", good, busy, (unsigned) longest);

    ok(wait_info("cluster_state:fail", 0, 2)
       && rs_get(r, key_of(0, key), out, sizeof(out)) == INFER_BUSY,
       "CLUSTERDOWN is a miss");
    ok(infer_redis_breaker(shared, infer_redis_place(shared,
                           r->server[0].id), rs_now_ms()) == 0,
       "of a node that is up");
    start_node(2);
    (void) wait_info("cluster_state:ok", 0, NODES);
    until = rs_now_ms() + 10000;
    do {
        (void) poll(NULL, 0, 50);
        good = infer_redis_set(r, key_of(2, key), "v", 1, 60000) == INFER_OK;
        good += infer_redis_set(r, key_of(0, key), "v", 1, 60000) == INFER_OK;
    } while (good != 2 && rs_now_ms() < until);
    ok(good == 2, "and all is well when it is back");
    infer_redis_free(r);
    ok(rs_descriptors() == open, "no descriptor is left");
}

/* A replica takes over from a node that is killed. */
static void
test_promoted(void)
{
    char                key[16], out[8];
    int                 tries, up = 0;
    redis_reply_t      *reply;
    infer_redis_t      *r;
    infer_redis_conf_t  conf = conf_of(0);

    start_node(3);
    meet(3);
    (void) wait_info("cluster_known_nodes:4", 3, 4);
    (void) wait_info("cluster_state:ok", 3, 4);
    (void) RS_COMMAND(node[3].port, NULL, "CLUSTER", "REPLICATE", id[2]);

    memset(shared, 0, sizeof(*shared));
    r = rs_client(&conf, shared);
    (void) infer_redis_set(r, key_of(2, key), "kept", 4, 600000);
    for (tries = 0; tries < 200 && !up; tries++) {
        (void) poll(NULL, 0, 100);
        if (RS_COMMAND(node[2].port, &reply, "INFO", "replication")) {
            up = strstr(reply->str, "state=online,offset=") != NULL
                 && strstr(reply->str, "lag=0") != NULL;
            infer_redis_reply_free(reply);
        }
    }
    rs_kill(&node[2]);
    ok(up && rs_get(r, key, out, sizeof(out)) == INFER_BUSY,
       "a node with a replica is killed");
    for (tries = 0; tries < 200; tries++) {
        if (rs_get(r, key, out, sizeof(out)) == INFER_OK) {
            break;
        }
        (void) poll(NULL, 0, 100);
    }
    ok(strcmp(out, "kept") == 0 && infer_redis_del(r, key) == INFER_OK,
       "the replica is found by itself (after %d tries)", tries);
    infer_redis_free(r);
}

/* Servers that are no cluster, and seeds that are gone. */
static void
test_seeds(void)
{
    char                out[8];
    rs_server_t         plain = { .port = 0 };
    infer_redis_t      *r;
    infer_redis_conf_t  conf = conf_of(0);

    memset(shared, 0, sizeof(*shared));
    conf.n_servers = 2;
    conf.server[1] = conf.server[0];
    conf.server[0].port = rs_free_port();
    r = rs_client(&conf, shared);
    ok(infer_redis_set(r, "k", "v", 1, 60000) == INFER_OK,
       "a seed that is gone");
    infer_redis_free(r);

    rs_start(&plain, NULL);
    conf = rs_conf(plain.port);
    conf.cluster = 1;
    r = rs_client(&conf, shared);
    ok(rs_get(r, "k", out, sizeof(out)) == INFER_BUSY,
       "a server that is no cluster");
    infer_redis_free(r);
    rs_stop(&plain);
}

int
main(void)
{
    uint32_t  i;

    (void) signal(SIGPIPE, SIG_IGN);
    if (!rs_installed()) {
        printf("1..0 # SKIP redis-server is not installed\n");
        return 0;
    }
    shared = rs_shared();
    start_cluster();
    test_slots();
    test_calls();
    test_moved();
    test_seeds();
    test_frozen();
    test_killed();
    test_promoted();
    for (i = 0; i <= NODES; i++) {
        rs_stop(&node[i]);
    }
    return tap_done();
}
