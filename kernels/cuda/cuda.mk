# cuda.mk: libngx_infer_cuda.so by nvcc, for every architecture of CUDA_ARCHS
# and as PTX of the last; left out with a line when there is no nvcc (NVCC=).
# The emulated plugin, of the same sources by g++, is in kernels/sim/sim.mk.

# a name with "a" is for that architecture alone
CUDA_ARCHS  ?= 80 86 87 89 90a 100 120
CUDA_PTX    ?= $(lastword $(CUDA_ARCHS))
CUDA_HOME   := $(patsubst %/bin/nvcc,%,$(realpath $(NVCC)))
CUDA_DIR    := $(BUILD)/cuda
NVCC_VERSION = $(or $(lastword $(filter V%,\
               $(shell $(NVCC) --version 2>/dev/null))),unknown)
CUDA_PLUGIN := $(BUILD)/libngx_infer_cuda.so
CUDA_CODE    = $(foreach a,$(CUDA_ARCHS),\
               -gencode arch=compute_$a,code=sm_$a) \
               -gencode arch=compute_$(CUDA_PTX),code=compute_$(CUDA_PTX)
CUDA_FLAGS   = -O3 -std=c++17 -fmad=false -lineinfo --compress-mode=size \
               -Werror all-warnings -Xptxas -v $(CUDA_CODE) \
               -Xcompiler -fPIC,-fvisibility=hidden,-ffp-contract=off \
               -Xcompiler -Wall,-Wextra,-Wno-unused-parameter \
               -Iengine -Ikernels -Ikernels/cuda -I$(BUILD)
CUDA_CFLAGS  = $(CFLAGS_ALL) -Ikernels/cuda -isystem $(CUDA_HOME)/include

# KEEP_PTX=1 keeps what the compiler hands to ptxas, as NAME.compute_ARCH.ptx
# (NAME.ptx where there is one architecture): the interpreter runs it (sim.mk).
CUDA_KEPT    = $(CUDA_DIR)/kept
CUDA_KEEP    = $(if $(KEEP_PTX),--keep --keep-dir $(CUDA_KEPT)/$(basename $(<F)))

CUDA_CU  := $(wildcard kernels/cuda/*.cu)
CUDA_C   := $(wildcard kernels/cuda/*.c)
CUDA_OBJ := $(patsubst %,$(CUDA_DIR)/%.o,$(CUDA_CU) $(CUDA_C))

# Another list of architectures makes other objects.
CUDA_MADE    = $(CUDA_ARCHS) $(CUDA_PTX) $(if $(KEEP_PTX),kept)
$(CUDA_DIR)/archs: FORCE
	@mkdir -p $(@D)
	@echo '$(CUDA_MADE)' | cmp -s - $@ || echo '$(CUDA_MADE)' > $@

# What the compiler printed is kept: ptxas_check.py reads spills and
# registers from it.
$(CUDA_DIR)/%.cu.o: %.cu $(CUDA_DIR)/archs
	@mkdir -p $(@D) $(CUDA_KEPT)/$(basename $(<F))
	$(call say,NVCC,$<)
	$(Q)$(NVCC) $(CUDA_FLAGS) $(CUDA_KEEP) -MMD -MP -c -o $@ $< > $@.log \
	    2>&1 || { cat $@.log; rm -f $@; exit 1; }
	@find $(CUDA_KEPT)/$(basename $(<F)) -type f ! -name '*.ptx' -delete

$(CUDA_DIR)/%.c.o: %.c | $(BUILD)/infer_build_id.h
	@mkdir -p $(@D)
	$(call say,CC,$<)
	$(Q)$(CC) $(CUDA_CFLAGS) -MMD -MP -c -o $@ $<

# One exported symbol; nothing but libc and its family is NEEDED.
$(CUDA_PLUGIN): $(CUDA_OBJ) $(BUILD)/libinfer.a kernels/cuda/plugin.map
	$(call say,LINK,$@)
	$(Q)g++ -shared -o $@.new $(CUDA_OBJ) $(BUILD)/libinfer.a \
	    -static-libstdc++ -static-libgcc -Wl,--exclude-libs,ALL \
	    -Wl,--version-script,kernels/cuda/plugin.map -Wl,-z,defs \
	    -Wl,--as-needed -L$(CUDA_HOME)/lib64 -lcudart_static -lrt \
	    -lpthread -ldl -lm
	$(Q)python3 kernels/cuda/ptxas_check.py --compiler=$(NVCC_VERSION) \
	    $(patsubst %,$(CUDA_DIR)/%.o.log,$(CUDA_CU))
	@mv $@.new $@

-include $(shell find $(CUDA_DIR) -name '*.d' 2>/dev/null)

.PHONY: cuda
ifeq ($(SANITIZER)$(NVCC),)
cuda:
	@echo "no nvcc (NVCC=): libngx_infer_cuda.so is left out"
else ifneq ($(SANITIZER),)
cuda:
else
cuda: $(CUDA_PLUGIN)                   ## the CUDA plugin, when nvcc is there (NVCC= CUDA_ARCHS=)
endif

# The nginx tests that do not need a large model, on the emulated plugin, or
# with INFER_DEVICE_REAL=1 on a GPU. test-cuda-all runs every file there is;
# left out here, for their time, are those
#   without a model (000, 001), by nginx -t alone (011), of installation (122),
#   whose subject is in the workers: slow clients and memory (121, 130), late
#     jobs and copies (127), old answers and refreshes (162, 163), paces
#     (164), hits (167, 168), the cache in one process (169), Redis (170 to
#     174),
#   166, whose joined groups are on the device what 161 and 110 have there,
#   176, purges, which are in the workers, too,
#   200, which needs the real model: too slow emulated, it skips.
CUDA_NGX_TESTS ?= $(CUDA_NGX_BESIDE) t/110-kill-engine.t t/111-kill-worker.t \
                  t/112-reload.t t/113-cancel.t t/117-timeouts.t \
                  t/123-priority.t t/124-hang.t t/125-deadline.t \
                  t/126-step.t t/161-join.t t/175-join-begun.t
# Those that time nothing, and kill nothing in the middle of something, run
# on all cores; the others one by one.
CUDA_NGX_BESIDE = t/010-conf.t t/020-http.t t/030-params.t t/100-stream.t \
                  t/114-end.t t/115-disk.t t/116-poison.t t/118-limits.t \
                  t/118-zones.t t/119-http2.t t/120-kv.t t/140-prefix.t \
                  t/150-cuda.t t/151-plugin.t t/160-cache.t t/165-join-bus.t
CUDA_PROVE      = INFER_TEST_DEVICE=cuda INFER_DEVICE_REAL=$(INFER_DEVICE_REAL) \
                  BUILD=$(BUILD) prove --timer -It/lib
$(BUILD)/cuda.gguf: $(BUILD)/make_tiny
	$(BUILD)/make_tiny -s 9 --type q4_0 --shape 2,256,4,1,512 -o $@
# Emulated, a token of the one above takes 0.1 s and of this one 0.01 s.
$(BUILD)/emu.gguf: $(BUILD)/make_tiny
	$(BUILD)/make_tiny -s 9 --type q4_0 --shape 1,64,1,1,64 --vocab 259 \
	    -o $@

.PHONY: test-cuda test-cuda-all
test-cuda: all tiny poison $(BUILD)/cuda.gguf $(BUILD)/emu.gguf $(if $(INFER_DEVICE_REAL),,emu) ## nginx with `device cuda` on the emulated plugin
	$(if $(filter $(CUDA_NGX_BESIDE),$(CUDA_NGX_TESTS)),$(CUDA_PROVE) \
	    $(JOBS) $(filter $(CUDA_NGX_BESIDE),$(CUDA_NGX_TESTS)))
	$(if $(filter-out $(CUDA_NGX_BESIDE),$(CUDA_NGX_TESTS)),$(CUDA_PROVE) \
	    $(filter-out $(CUDA_NGX_BESIDE),$(CUDA_NGX_TESTS)))

test-cuda-all:                         ## every t/ file with `device cuda`
	@$(MAKE) --no-print-directory test-cuda \
	    CUDA_NGX_TESTS='$(sort $(wildcard t/*.t))'
