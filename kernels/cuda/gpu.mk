# gpu.mk: the kernels' tests and benches for a real GPU, by nvcc for the one
# architecture at hand, in $(BUILD)/gpu; what check_gpu.sh runs. The same
# test sources run under kernels/sim without a GPU (sim.mk).

NVCC      ?= $(firstword $(shell command -v nvcc) \
             $(wildcard /usr/local/cuda/bin/nvcc))
GPU_ARCH  ?= 90a
GPU_DIR   := $(BUILD)/gpu
GPU_FLAGS  = -O3 -g -lineinfo -std=c++17 -fmad=false \
             -gencode arch=compute_$(GPU_ARCH),code=sm_$(GPU_ARCH) \
             -Xcompiler -Wall,-Wextra,-Wno-unused-parameter,-ffp-contract=off \
             -Iengine -Ikernels -Ikernels/cuda -I$(BUILD) $(CFLAGS)
GPU_CFLAGS = -std=gnu11 -O2 -g $(DEFS) -ffp-contract=off -pthread -Iengine \
             -Ikernels -Ikernels/cuda -I$(BUILD) -isystem \
             $(dir $(NVCC))../include

GPU_CU    := $(wildcard kernels/cuda/*.cu)
GPU_C     := $(filter-out kernels/cuda/cuda_plugin.c,\
             $(wildcard kernels/cuda/*.c)) $(KERN_SRC) engine/run/sample.c
GPU_LIB   := $(patsubst %,$(GPU_DIR)/%.o,$(GPU_CU) $(sort $(GPU_C)))
GPU_TESTS := $(patsubst kernels/cuda/test/%.cpp,$(GPU_DIR)/%,\
             $(wildcard kernels/cuda/test/test_cuda_*.cpp))
GPU_BENCH := $(patsubst kernels/cuda/bench/%.cu,$(GPU_DIR)/%,\
             $(wildcard kernels/cuda/bench/*.cu))

$(GPU_DIR)/%.cu.o: %.cu
	@mkdir -p $(@D)
	$(call say,NVCC,$<)
	$(Q)$(NVCC) $(GPU_FLAGS) -Xptxas -v -MMD -MP -c -o $@ $< 2> $@.log || \
	    { cat $@.log; exit 1; }

$(GPU_DIR)/%.c.o: %.c | $(BUILD)/infer_build_id.h
	@mkdir -p $(@D)
	$(call say,CC,$<)
	$(Q)$(CC) $(GPU_CFLAGS) $(call isa_flags,$<) $(call kern_flags,$<) \
	    -MMD -MP -c -o $@ $<

$(GPU_DIR)/libcuda_test.a: $(GPU_LIB)
	@rm -f $@
	$(Q)ar rcs $@ $^

$(GPU_DIR)/test_%: kernels/cuda/test/test_%.cpp $(GPU_DIR)/libcuda_test.a
	$(call say,NVCC,$<)
	$(Q)$(NVCC) $(GPU_FLAGS) -x cu -c $< -o $@.o
	$(Q)$(NVCC) $(GPU_FLAGS) $@.o $(GPU_DIR)/libcuda_test.a -o $@ \
	    -lm -ldl -lpthread

$(GPU_DIR)/%: kernels/cuda/bench/%.cu $(GPU_DIR)/libcuda_test.a
	$(call say,NVCC,$<)
	$(Q)$(NVCC) $(GPU_FLAGS) -x cu -c $< -o $@.o
	$(Q)$(NVCC) $(GPU_FLAGS) $@.o $(GPU_DIR)/libcuda_test.a -o $@ \
	    -lm -ldl -lpthread

-include $(shell find $(GPU_DIR) -name '*.d' 2>/dev/null)

.PHONY: gpu-tests gpu-benches check-gpu
gpu-tests: $(GPU_TESTS)
gpu-benches: $(GPU_BENCH)
check-gpu:                             ## the CUDA kernels on a real GPU: tests, sanitizer, benches (STAGES= 1..5)
	@NVCC='$(NVCC)' BUILD=$(BUILD) sh kernels/cuda/check_gpu.sh $(STAGES)
