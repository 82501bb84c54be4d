# ngx_infer: everything that can be made. `make help` lists the targets.
#
# The engine (engine/, kernels/) is built here with no nginx header in reach;
# the module is built by nginx's own build from `config`, in a copy of the
# source tree that nginx-dev (or NGINX_SRC=) brings.

SHELL      := /bin/bash
SANITIZER  ?=
BUILD      ?= build$(if $(SANITIZER),-$(subst $(comma),-,$(SANITIZER)))
comma      := ,
CC         ?= gcc
NGINX      ?= nginx
NGINX_SRC  ?= /usr/share/nginx/src
PORT       ?= 8080
MODEL      ?=
# V=1 prints commands
Q          := $(if $(V),,@)
say         = @$(if $(V),:,printf '  %-6s %s\n' $1 $2)
JOBS       := -j$(shell nproc)
MODULESDIR ?= /usr/lib/nginx/modules

DEMO_MODEL := models/SmolLM2-135M-Instruct.Q4_1.gguf

WARN   := -Wall -Wextra -Werror
OPT    := -O2 -g
DEFS   := -D_GNU_SOURCE
ifneq ($(SANITIZER),)
OPT    := -O1 -g -fno-omit-frame-pointer -fsanitize=$(SANITIZER)
LDSAN  := -fsanitize=$(SANITIZER)
# our own assertions, too: `make check` takes the library as it is shipped
DEFS   += -DINFER_DEBUG
endif
ifneq ($(filter undefined,$(subst $(comma), ,$(SANITIZER))),)
OPT    += -fno-sanitize-recover=undefined
endif
CFLAGS_ALL = -std=gnu11 $(OPT) $(WARN) $(DEFS) -fPIC -ffp-contract=off \
             -fvisibility=hidden -pthread -Iengine -Ikernels -I$(BUILD) \
             $(CFLAGS)
# for values in Redis, where it is there: seal.c looks for the same header
HAVE_ZSTD := $(shell echo '\#include <zstd.h>' | $(CC) -E - > /dev/null 2>&1 \
              && echo 1)
LIBS   := $(LDSAN) -pthread -Wl,--as-needed -ljansson -lpcre2-8 -lhiredis \
          $(if $(HAVE_ZSTD),-lzstd) -lm

ENGINE_SRC := $(wildcard engine/text/*.c engine/cache/*.c engine/ipc/*.c \
              engine/model/*.c) \
              $(filter-out engine/run/main.c,$(wildcard engine/run/*.c))
KERN_SRC   := $(wildcard kernels/*.c kernels/ref/*.c) \
              $(if $(filter x86_64,$(shell uname -m)),$(wildcard kernels/x86/*.c)) \
              $(if $(filter aarch64,$(shell uname -m)),$(wildcard kernels/arm/*.c))
LIB_OBJ    := $(patsubst %.c,$(BUILD)/obj/%.o,$(ENGINE_SRC) $(KERN_SRC))
TESTS      := $(patsubst %.c,$(BUILD)/%,$(wildcard engine/test/test_*.c \
              kernels/test/test_*.c))
FUZZERS    := $(patsubst engine/test/%.c,$(BUILD)/%,\
              $(wildcard engine/test/fuzz_*.c))
MODULE     := $(BUILD)/ngx_http_infer_module.so
ENGINE     := $(BUILD)/ngx_infer_engine
TOOLS      := $(patsubst engine/tool/%.c,$(BUILD)/%,$(wildcard engine/tool/*.c))
BENCHES    := $(patsubst kernels/bench/%.c,$(BUILD)/%,\
              $(wildcard kernels/bench/*.c))

.PHONY: all engine module poison run stop test tests-built test-nginx \
        test-sanitizer test-nginx-sanitizer test-all tsan check check-arm bench \
        bench-cache bench-hit bench-redis \
        quality fuzz soak install deps model tiny help clean
.DEFAULT_GOAL := all
.SECONDARY:

all: engine module cuda                ## the engine, the tools, the module, the CUDA plugin

engine: $(ENGINE) $(TOOLS)
module: $(MODULE)
poison: $(BUILD)/poison/ngx_infer_engine

help:                                  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | \
	    sed -E 's/^([a-z-]+):.*## */\1\t/' | expand -t 18

# ---- engine ----

# The kernels of one ISA level are built with its own flags; they are called
# only after a run-time probe.
ISA_AVX2   := -mavx2 -mfma -mf16c -mbmi2
ISA_AVX512 := $(ISA_AVX2) -mavx512f -mavx512bw -mavx512vl -mavx512dq \
              -mavx512vnni -mavx512bf16 -mprefer-vector-width=512
ISA_AVXVNNI := $(ISA_AVX2) -mavxvnni
ISA_VNNI256 := $(ISA_AVX2) -mavx512vl -mavx512vnni
ISA_NEON   := -march=armv8.2-a+dotprod
isa_flags = $(if $(findstring neon,$(notdir $1)),$(ISA_NEON),\
            $(if $(findstring avx512,$(notdir $1)),$(ISA_AVX512),\
            $(if $(findstring avxvnni,$(notdir $1)),$(ISA_AVXVNNI),\
            $(if $(findstring vnni256,$(notdir $1)),$(ISA_VNNI256),\
            $(if $(findstring avx2,$(notdir $1)),$(ISA_AVX2))))))
# Kernels are arithmetic: -O3 unless a sanitizer has its own level.
kern_flags = $(if $(filter kernels/%,$1),$(if $(SANITIZER),,-O3))

$(BUILD)/infer_build_id.h: engine/ipc/build_id.sh engine/infer.h \
    $(wildcard engine/ipc/*.[ch] engine/text/*.[ch]) \
    kernels/kern.h kernels/kern_plugin.h
	@mkdir -p $(@D)
	@sh engine/ipc/build_id.sh > $@.new
	@cmp -s $@.new $@ && rm $@.new || mv $@.new $@

$(BUILD)/obj/%.o: %.c | $(BUILD)/infer_build_id.h
	@mkdir -p $(@D)
	$(call say,CC,$<)
	$(Q)$(CC) $(CFLAGS_ALL) $(call isa_flags,$<) $(call kern_flags,$<) \
	    -MMD -MP -c -o $@ $<

$(BUILD)/libinfer.a: $(LIB_OBJ)
	@rm -f $@
	$(Q)ar rcs $@ $^

$(ENGINE): $(BUILD)/obj/engine/run/main.o $(BUILD)/libinfer.a
	$(call say,LINK,$@)
	$(Q)$(CC) -o $@ $^ $(LIBS)

# For tests: an engine that dies of three tokens 77 in a row.
$(BUILD)/obj/poison/step.o: engine/run/step.c | $(BUILD)/infer_build_id.h
	@mkdir -p $(@D)
	$(CC) $(CFLAGS_ALL) -DINFER_TEST_POISON=77 -MMD -MP -c -o $@ $<

$(BUILD)/poison/ngx_infer_engine: $(BUILD)/obj/engine/run/main.o \
    $(BUILD)/obj/poison/step.o $(BUILD)/libinfer.a
	@mkdir -p $(@D)
	$(call say,LINK,$@)
	$(Q)$(CC) -o $@ $^ $(LIBS)

$(BUILD)/%: $(BUILD)/obj/engine/tool/%.o $(BUILD)/libinfer.a
	$(call say,LINK,$@)
	$(Q)$(CC) -o $@ $^ $(LIBS)

$(BUILD)/%: $(BUILD)/obj/kernels/bench/%.o $(BUILD)/libinfer.a
	$(call say,LINK,$@)
	$(Q)$(CC) -o $@ $^ $(LIBS)

# Inline code of ours checks its assertions in unit tests.
$(BUILD)/engine/test/% $(BUILD)/kernels/test/%: DEFS += -DINFER_DEBUG
$(BUILD)/engine/test/%: $(BUILD)/obj/engine/test/%.o $(BUILD)/libinfer.a
	@mkdir -p $(@D)
	$(call say,LINK,$@)
	$(Q)$(CC) -o $@ $^ $(LIBS)
$(BUILD)/kernels/test/%: $(BUILD)/obj/kernels/test/%.o $(BUILD)/libinfer.a
	@mkdir -p $(@D)
	$(call say,LINK,$@)
	$(Q)$(CC) -o $@ $^ $(LIBS)

-include $(shell find $(BUILD)/obj $(BUILD)/arm -name '*.d' 2>/dev/null)

# ---- CUDA ----

include kernels/cuda/gpu.mk
include kernels/cuda/cuda.mk
include kernels/sim/sim.mk

# ---- module ----

NGX_TREE   := $(BUILD)/nginx
MODULE_DEP := config config.make $(wildcard ngx_module/*.[ch] engine/*.h \
              engine/text/*.[ch] engine/cache/*.[ch] engine/ipc/*.[ch] \
              engine/model/gguf.[ch])
NGX_CC_OPT := -g -O2 -fstack-protector-strong -Wformat \
              -Werror=format-security -fPIC -D_FORTIFY_SOURCE=2 \
              -Wno-error=cpp
ifneq ($(SANITIZER),)
NGX_CC_OPT := -g -O1 -fPIC -fno-omit-frame-pointer -fsanitize=$(SANITIZER)
endif

# A copy of nginx's source tree, configured as the nginx in use is: modules
# are compatible only when the flags agree.
# The list of sources is taken when nginx's tree is configured.
MODULE_SRC := $(sort $(wildcard ngx_module/*.c engine/text/*.c \
              engine/cache/*.c engine/ipc/*.c))
$(BUILD)/module_src.list: FORCE
	@mkdir -p $(@D)
	@echo $(MODULE_SRC) | cmp -s - $@ || echo $(MODULE_SRC) > $@
.PHONY: FORCE

$(NGX_TREE)/objs/Makefile: config config.make $(BUILD)/module_src.list
	@test -d $(NGINX_SRC)/src || \
	    { echo "no nginx source tree in $(NGINX_SRC): apt-get install" \
	    "nginx-dev, or NGINX_SRC=DIR"; exit 1; }
	@rm -rf $(NGX_TREE) && mkdir -p $(NGX_TREE)
	cp -r $(NGINX_SRC)/. $(NGX_TREE)/
	@chmod +x $(NGX_TREE)/configure
	$(call say,NGINX,configure)
	$(Q)cd $(NGX_TREE) && . ./conf_flags 2>/dev/null; \
	    ./configure "$${NGX_CONF_FLAGS[@]:---with-compat}" \
	    --with-threads --with-debug --with-cc-opt='$(NGX_CC_OPT)' \
	    --with-ld-opt='-Wl,-z,relro -Wl,-z,now -fPIC $(LDSAN)' \
	    --add-dynamic-module=$(CURDIR) > configure.log 2>&1 || \
	    { tail -20 configure.log; exit 1; }

$(MODULE): $(NGX_TREE)/objs/Makefile $(MODULE_DEP) $(BUILD)/infer_build_id.h
	@cmp -s $(BUILD)/infer_build_id.h $(NGX_TREE)/objs/infer_build_id.h || \
	    cp $(BUILD)/infer_build_id.h $(NGX_TREE)/objs/
	$(call say,NGINX,$@)
	$(Q)$(MAKE) -C $(NGX_TREE) -f objs/Makefile modules \
	    > $(NGX_TREE)/make.log 2>&1 || { tail -30 $(NGX_TREE)/make.log; exit 1; }
	@# a new inode: a running nginx may have the old one mapped
	$(Q)install -m 755 $(NGX_TREE)/objs/ngx_http_infer_module.so $@

install: engine module                 ## module, engine and, where it is built, the CUDA plugin side by side (MODULESDIR=)
	install -d $(DESTDIR)$(MODULESDIR)
	install -m 644 $(MODULE) $(DESTDIR)$(MODULESDIR)/
	install -m 755 $(ENGINE) $(DESTDIR)$(MODULESDIR)/
	@if [ -f $(CUDA_PLUGIN) ]; then \
	    install -m 644 $(CUDA_PLUGIN) $(DESTDIR)$(MODULESDIR)/; fi

# ---- models, demo ----

deps:                                  ## Debian packages that builds and tests need
	@sh t/tool/deps.sh

model: $(DEMO_MODEL)                   ## fetch the demo model
$(DEMO_MODEL):
	@sh t/tool/fetch_model.sh $@

tiny: $(BUILD)/tiny.gguf $(BUILD)/slow.gguf  ## generate the test models
$(BUILD)/tiny.gguf: $(BUILD)/make_tiny
	$(BUILD)/make_tiny -o $@
# slow enough that a test can kill something in the middle of a stream
SLOW_SHAPE := $(if $(SANITIZER),4,12),512,8,4,$(if $(SANITIZER),512,1536)
$(BUILD)/slow.gguf: $(BUILD)/make_tiny | $(BUILD)/infer_cli
	@sh t/tool/slow_model.sh $@ $(BUILD)/make_tiny \
	    $(if $(SANITIZER),-,$(BUILD)/infer_cli) $(SLOW_SHAPE)

# The CUDA plugin takes nvcc long, and the demo runs on the CPU.
run: deps                              ## set up, build, start nginx, stream one answer (PORT= MODEL=)
	@$(MAKE) --no-print-directory $(JOBS) engine module tiny
	@PORT=$(PORT) MODEL='$(MODEL)' BUILD=$(BUILD) sh t/tool/run.sh

stop:                                  ## stop what `make run` started
	@sh t/tool/stop.sh

# ---- tests ----

check: engine $(TESTS)                 ## build engine and kernels without nginx, run the unit tests
	prove -e '' $(TESTS)

tests-built: engine $(TESTS) $(FUZZERS)

# The unit tests once more, instrumented, and the fuzz targets for a moment.
test-sanitizer:
	@$(MAKE) --no-print-directory $(JOBS) SANITIZER=address,undefined \
	    tests-built
	@$(MAKE) --no-print-directory SANITIZER=address,undefined check fuzz-short

# The module and the engine instrumented, under a stock nginx.
ASAN_TESTS := t/020-http.t t/100-stream.t t/110-kill-engine.t \
              t/113-cancel.t t/118-limits.t t/120-kv.t t/121-slow.t \
              t/124-hang.t t/125-deadline.t t/126-step.t t/127-late.t \
              t/160-cache.t t/161-join.t t/163-refresh.t t/164-pace.t \
              t/165-join-bus.t t/167-hit.t t/168-hit-shared.t \
              t/169-single.t t/170-redis.t t/171-redis-lock.t \
              t/172-cluster.t t/173-redis-lane.t t/174-redis-stale.t \
              t/175-join-begun.t t/176-purge-race.t \
              t/177-join-end.t
test-nginx-sanitizer:
	@$(MAKE) --no-print-directory $(JOBS) SANITIZER=address,undefined all tiny
	BUILD=build-address-undefined INFER_SHORT=1 \
	    INFER_PRELOAD=$$($(CC) -print-file-name=libasan.so) \
	    prove -It/lib $(ASAN_TESTS)

tsan:                                  ## unit tests under ThreadSanitizer
	@$(MAKE) --no-print-directory SANITIZER=thread check

test-nginx: engine module tiny poison
	BUILD=$(BUILD) prove -It/lib t/*.t

# Two architectures of the CUDA plugin are enough for tests (TEST_ARCHS=); the
# PTX interpreter runs what the compiler made for them, and sm_80.
TEST_ARCHS ?= 90a 120
TEST_CUDA  := CUDA_ARCHS='$(TEST_ARCHS)' KEEP_PTX=1
test: deps                             ## everything that tests need, then all tests
	@$(MAKE) --no-print-directory $(JOBS) $(TEST_CUDA) all tiny
	@sh t/tool/fetch_model.sh $(DEMO_MODEL)
	@$(MAKE) --no-print-directory $(JOBS) $(TESTS)
	@$(MAKE) --no-print-directory $(TEST_CUDA) test-all

# The kernels and their tests for aarch64, run by qemu on fewer
# shapes.
ARM_CC    ?= aarch64-linux-gnu-gcc
ARM_QEMU  ?= qemu-aarch64
ARM_SRC   := $(wildcard kernels/*.c kernels/ref/*.c kernels/arm/*.c)
ARM_OBJ   := $(patsubst %.c,$(BUILD)/arm/%.o,$(ARM_SRC))
ARM_TESTS := $(patsubst %.c,$(BUILD)/arm/%,$(wildcard kernels/test/test_*.c))
$(BUILD)/arm/%.o: %.c | $(BUILD)/infer_build_id.h
	@mkdir -p $(@D)
	$(call say,ARMCC,$<)
	$(Q)$(ARM_CC) -std=gnu11 -O2 -g $(WARN) $(DEFS) -DINFER_DEBUG \
	    -ffp-contract=off -pthread -Iengine -Ikernels -I$(BUILD) \
	    $(call isa_flags,$<) -MMD -MP -c -o $@ $<
$(BUILD)/arm/kernels/test/%: $(BUILD)/arm/kernels/test/%.o $(ARM_OBJ)
	$(call say,LINK,$@)
	$(Q)$(ARM_CC) -static -o $@ $^ -pthread -lm
check-arm: $(ARM_TESTS)                ## kernel tests for aarch64 under qemu-user
	@INFER_QUICK=1 prove -e '$(ARM_QEMU)' $(ARM_TESTS)

test-all: check test-sanitizer test-nginx test-nginx-sanitizer check-cuda \
    test-cuda \
    $(if $(shell command -v $(ARM_CC)),\
    $(if $(shell command -v $(ARM_QEMU)),check-arm))

fuzz-short: $(FUZZERS)
	@for f in $(FUZZERS); do $$f -t 5 || exit 1; done

fuzz: $(FUZZERS)                       ## fuzz targets, FUZZ_SECONDS= each (600)
	@for f in $(FUZZERS); do $$f -t $${FUZZ_SECONDS:-600} || exit 1; done

$(BUILD)/fuzz_%: $(BUILD)/obj/engine/test/fuzz_%.o \
    $(BUILD)/obj/engine/test/mutate.o $(BUILD)/libinfer.a
	$(call say,LINK,$@)
	$(Q)$(CC) -o $@ $^ $(LIBS)

SOAK_ROUNDS ?= 20
SOAK_TESTS  := $(filter-out t/122-% t/13%,$(wildcard t/1*.t))
soak: all tiny poison                  ## kill, reload and cancel scenarios, SOAK_ROUNDS= (20); memory
	@for i in $$(seq $(SOAK_ROUNDS)); do echo "round $$i"; \
	    BUILD=$(BUILD) prove -It/lib $(SOAK_TESTS) || exit 1; done
	INFER_REQUESTS=5000 BUILD=$(BUILD) prove -It/lib t/130-memory.t

bench: engine $(BENCHES) module        ## against limits and peers (LLAMA= DASLLAMA= OPENVINO= ROWS= SVG=)
	@BUILD=$(BUILD) python3 kernels/bench/bench.py

bench-cache: $(BUILD)/cache_bench      ## hit ratios of the response cache beside other policies (TRACE=files)
	@$(BUILD)/cache_bench $(TRACE)

bench-hit: module engine tiny          ## a hit of the response cache beside return 200 (ROUNDS=3 RUN=3)
	@BUILD=$(BUILD) perl -It/lib kernels/bench/hit.pl $(ROUNDS) $(RUN)

bench-redis: module engine tiny        ## an answer from Redis beside a plain GET (ROUNDS=5)
	@BUILD=$(BUILD) perl -It/lib kernels/bench/redis.pl $(ROUNDS)

# Each type is made from the demo model and compared with its own weights as
# f32; the demo model itself with the reference kernels, and within a limit.
QUALITY_TYPES ?= q4_0 q5_0 q5_1 q8_0 q2_k q3_k q4_k q5_k q6_k q8_k iq4_nl \
                 iq4_xs f16 bf16
quality: engine $(DEMO_MODEL)          ## KL divergence against f32 (QUALITY= options, QUALITY_TYPES=)
	@$(BUILD)/infer_quality --max-kl 0.00345 $(QUALITY) $(DEMO_MODEL)
	@$(BUILD)/infer_quality --max-kl 0.0045 --kv bf16,q8 $(QUALITY) \
	    $(DEMO_MODEL)
	@for t in $(QUALITY_TYPES); do f=$(BUILD)/quality-$$t.gguf; \
	    rm -f $$f $$f.f32; $(BUILD)/requant -t $$t $(DEMO_MODEL) $$f && \
	    $(BUILD)/requant -t f32 $$f $$f.f32 && \
	    $(BUILD)/infer_quality --float $$f.f32 --kv f16,bf16,q8 $(QUALITY) \
	        $$f || exit 1; rm -f $$f $$f.f32; done

clean:
	rm -rf build build-*
