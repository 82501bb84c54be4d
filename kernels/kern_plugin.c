/*
 * kern_plugin.c: the backend that lies in a shared object. Found, loaded and
 * compared with our own build; what it leaves to the CPU is filled in.
 *
 * The table is the one piece of process state here: a shared object is
 * loaded once in a process, whoever asks. It is written once, under a lock.
 */

#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>

#include "infer_build_id.h"
#include "kern_plugin.h"

static pthread_mutex_t  plugin_lock = PTHREAD_MUTEX_INITIALIZER;
static kern_ops_t       plugin_table;      /* open is NULL: not loaded */


static int
plugin_path(char *path, size_t size, infer_err_t *err)
{
    const char  *given = getenv("INFER_CUDA_PLUGIN");
    ssize_t      n;
    char        *slash;

    if (given != NULL && given[0] != '\0') {
        if (strlen(given) >= size) {
            return infer_err(err, INFER_INVALID,
                             "INFER_CUDA_PLUGIN is too long");
        }
        strcpy(path, given);
        return INFER_OK;
    }

    n = readlink("/proc/self/exe", path, size - 1);
    if (n <= 0) {
        return infer_err(err, INFER_UNSUPPORTED,
                         "cannot tell where the CUDA plugin is: %s",
                         strerror(errno));
    }

    path[n] = '\0';
    slash = strrchr(path, '/');
    if (slash == NULL
        || (size_t) (slash - path) + sizeof("/" KERN_PLUGIN_FILE) > size)
    {
        return infer_err(err, INFER_UNSUPPORTED,
                         "cannot tell where the CUDA plugin is");
    }

    strcpy(slash + 1, KERN_PLUGIN_FILE);
    return INFER_OK;
}

static int
plugin_load(const char *path, const kern_plugin_t **plugin, infer_err_t *err)
{
    void  *so;

    if (access(path, R_OK) != 0) {
        return infer_err(err, INFER_UNSUPPORTED,
                         "\"device cuda\" needs the plugin \"%s\": %s", path,
                         strerror(errno));
    }

    so = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (so == NULL) {
        return infer_err(err, INFER_UNSUPPORTED,
                         "the CUDA plugin cannot be loaded: %s", dlerror());
    }

    *plugin = dlsym(so, KERN_PLUGIN_SYMBOL);
    if (*plugin == NULL) {
        (void) dlclose(so);
        return infer_err(err, INFER_UNSUPPORTED,
                         "\"%s\" is not a plugin of this engine", path);
    }

    if (strcmp((*plugin)->build_id, INFER_BUILD_ID) != 0) {
        (void) infer_err(err, INFER_UNSUPPORTED,
                         "the CUDA plugin \"%s\" is of build %.32s, the "
                         "engine of %s", path, (*plugin)->build_id,
                         INFER_BUILD_ID);
        (void) dlclose(so);
        return INFER_UNSUPPORTED;
    }

    return INFER_OK;
}

const kern_ops_t *
kern_plugin_ops(const kern_ops_t *cpu, infer_err_t *err)
{
    char                  path[PATH_MAX];
    const kern_plugin_t  *plugin;
    const kern_ops_t     *ops = NULL;

    (void) pthread_mutex_lock(&plugin_lock);

    if (plugin_table.open == NULL
        && plugin_path(path, sizeof(path), err) == INFER_OK
        && plugin_load(path, &plugin, err) == INFER_OK)
    {
        plugin_table = *plugin->ops;
        plugin_table.argmax = cpu->argmax;
        plugin_table.exp_row = cpu->exp_row;
    }

    if (plugin_table.open != NULL) {
        ops = &plugin_table;
    }

    (void) pthread_mutex_unlock(&plugin_lock);

    return ops;
}
