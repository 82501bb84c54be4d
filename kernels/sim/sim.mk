# sim.mk: the CUDA kernels and the host code around them, built by g++ and
# gcc against the emulator in kernels/sim: tests and the plugin
# libngx_infer_cuda_emu.so. No toolkit and no GPU. Included by the Makefile.
#
#   $(EMU)/test_*       plain; SIMT_ORDER= and SIMT_STREAMS= choose schedules
#   $(EMU)/chk/test_*   kernels instrumented, the checker linked in
#   $(EMU)/ptx/80/*.ptx what nvcc makes of the kernels, for SIMT_PTX=

EMU       := $(BUILD)/emu
EMU_CXX   ?= g++
EMU_CU    ?= $(wildcard kernels/cuda/*.cu)
EMU_C     ?= $(wildcard kernels/cuda/*.c)
EMU_INC   := -Ikernels/sim/include -Iengine -Ikernels -Ikernels/cuda \
             -I$(BUILD)
EMU_FLAGS  = -std=c++17 -O2 -g -Wall -Wextra -Werror -Wno-unknown-pragmas \
             $(DEFS) -ffp-contract=off -fPIC -fvisibility=hidden -pthread \
             $(if $(filter x86_64,$(shell uname -m)),-mavx2 -mfma) \
             $(EMU_INC) $(CFLAGS)
EMU_CFLAGS = -std=gnu11 -O2 -g $(WARN) $(DEFS) -ffp-contract=off -fPIC \
             -fvisibility=hidden -pthread $(EMU_INC) $(CFLAGS)
# A kernel that is a template of a hidden type would be hidden, too: then
# the PTX interpreter would not know its name.
EMU_NAMES := -fvisibility=default
# libtsan is not linked: check.cpp answers the calls.
EMU_CHECK := -O1 -fsanitize=thread --param tsan-instrument-func-entry-exit=0

SIM_CHECK := kernels/sim/check.cpp kernels/sim/report.cpp kernels/sim/perf.cpp
SIM_SRC   := $(filter-out $(SIM_CHECK) kernels/sim/blas_fake.cpp,\
             $(wildcard kernels/sim/*.cpp))
SIM_OBJ   := $(patsubst %.cpp,$(EMU)/obj/%.o,$(SIM_SRC))
SIM_CHECK_OBJ := $(patsubst %.cpp,$(EMU)/obj/%.o,$(wildcard $(SIM_CHECK)))
EMU_C_OBJ := $(patsubst %.c,$(EMU)/obj/%.o,$(EMU_C))
# As a library, and in tests of kernels: cu_blas_open(.., "", ..) finds it.
SIM_BLAS  := $(EMU)/obj/kernels/sim/blas_fake.o
SIM_BLAS_SO := $(EMU)/lib/libcublasLt.so.13

# The longest first, since several run at a time.
EMU_LONG  := $(addprefix $(EMU)/test_cuda_,attn gemm_f sample q8_wg gemm)
EMU_TESTS := $(patsubst %.cpp,$(EMU)/%,$(notdir \
             $(wildcard kernels/cuda/test/test_cuda_*.cpp)))
EMU_TESTS := $(EMU_LONG) $(filter-out $(EMU_LONG),$(EMU_TESTS))
SIM_TESTS := $(patsubst %.cpp,$(EMU)/%,$(notdir \
             $(wildcard kernels/sim/test/test_*.cpp)))
CHK_TESTS := $(patsubst $(EMU)/%,$(EMU)/chk/%,$(EMU_TESTS) \
             $(filter $(EMU)/test_sim%,$(SIM_TESTS)))
EMU_PLUGIN := $(BUILD)/libngx_infer_cuda_emu.so

# nvcc's work, checked by the interpreter: with and without dependent
# launches and fp8 products; and what for sm_100 on is another compiler's (the
# head of the file names its version). Any others by EMU_ARCHS=.
EMU_ARCHS ?= 80 90a 120
EMU_PTX    = $(foreach f,$(EMU_CU),$(EMU)/ptx/$1/$(notdir $(f:.cu=.ptx)))
# SIMT_DEVICE= and SIMT_PTX= for one architecture
EMU_RUN    = SIMT_DEVICE=cc=$(1:a=) \
             SIMT_PTX=$(subst $(space),:,$(strip $(call EMU_PTX,$1)))

$(EMU)/obj/%.cu.o: %.cu | $(BUILD)/infer_build_id.h
	@mkdir -p $(@D)
	$(call say,EMU,$<)
	$(Q)$(EMU_CXX) $(EMU_FLAGS) $(EMU_NAMES) -MMD -MP -x c++ -c -o $@ $<
$(EMU)/chk/obj/%.cu.o: %.cu | $(BUILD)/infer_build_id.h
	@mkdir -p $(@D)
	$(call say,CHECK,$<)
	$(Q)$(EMU_CXX) $(EMU_FLAGS) $(EMU_NAMES) $(EMU_CHECK) -MMD -MP \
	    -x c++ -c -o $@ $<
$(EMU)/obj/%.o: %.cpp | $(BUILD)/infer_build_id.h
	@mkdir -p $(@D)
	$(call say,EMU,$<)
	$(Q)$(EMU_CXX) $(EMU_FLAGS) -MMD -MP -c -o $@ $<
$(EMU)/obj/%.o: %.c | $(BUILD)/infer_build_id.h
	@mkdir -p $(@D)
	$(call say,EMU,$<)
	$(Q)$(CC) $(EMU_CFLAGS) -MMD -MP -c -o $@ $<
# The emulator's own tests have kernels in them, and so has a candidate's.
$(EMU)/chk/obj/%.o: %.cpp | $(BUILD)/infer_build_id.h
	@mkdir -p $(@D)
	$(call say,CHECK,$<)
	$(Q)$(EMU_CXX) $(EMU_FLAGS) $(EMU_CHECK) -MMD -MP -c -o $@ $<

$(EMU)/libcuda_emu.a: $(patsubst %,$(EMU)/obj/%.o,$(EMU_CU)) $(EMU_C_OBJ)
	@rm -f $@
	$(Q)ar rcs $@ $^
$(EMU)/libcuda_chk.a: $(patsubst %,$(EMU)/chk/obj/%.o,$(EMU_CU)) $(EMU_C_OBJ)
	@rm -f $@
	$(Q)ar rcs $@ $^

# -rdynamic: names of kernels for messages and the PTX interpreter.
EMU_LINK = $(EMU_CXX) -rdynamic -o $@ $^ -ldl $(LIBS)
$(EMU)/test_cuda_%: $(EMU)/obj/kernels/cuda/test/test_cuda_%.o $(SIM_OBJ) \
    $(SIM_BLAS) $(EMU)/libcuda_emu.a $(BUILD)/libinfer.a
	$(call say,LINK,$@)
	$(Q)$(EMU_LINK)
$(EMU)/chk/test_cuda_%: $(EMU)/obj/kernels/cuda/test/test_cuda_%.o \
    $(SIM_OBJ) $(SIM_CHECK_OBJ) $(SIM_BLAS) $(EMU)/libcuda_chk.a $(BUILD)/libinfer.a
	$(call say,LINK,$@)
	$(Q)$(EMU_LINK)
$(EMU)/chk/test_cuda_q8_wg: \
    $(EMU)/chk/obj/kernels/cuda/test/test_cuda_q8_wg.o $(SIM_OBJ) \
    $(SIM_CHECK_OBJ) $(SIM_BLAS) $(EMU)/libcuda_chk.a $(BUILD)/libinfer.a
	$(call say,LINK,$@)
	$(Q)$(EMU_LINK)
$(EMU)/test_%: $(EMU)/obj/kernels/sim/test/test_%.o $(SIM_OBJ) $(SIM_BLAS)
	$(call say,LINK,$@)
	$(Q)$(EMU_LINK)
$(EMU)/chk/test_sim%: $(EMU)/chk/obj/kernels/sim/test/test_sim%.o \
    $(SIM_OBJ) $(SIM_CHECK_OBJ) $(SIM_BLAS)
	$(call say,LINK,$@)
	$(Q)$(EMU_LINK)

$(SIM_BLAS_SO): $(SIM_BLAS)
	@mkdir -p $(@D)
	$(call say,LINK,$@)
	$(Q)$(EMU_CXX) -shared -Wl,-soname,$(@F) -o $@ $^

# The engine loads it when INFER_CUDA_PLUGIN= says so. Kernels are exported
# beside the entry, for their names.
$(EMU_PLUGIN): $(patsubst %,$(EMU)/obj/%.o,$(EMU_CU)) $(EMU_C_OBJ) \
    $(SIM_OBJ) $(BUILD)/libinfer.a
	$(call say,LINK,$@)
	$(Q)$(EMU_CXX) -shared -o $@.new $^ -Wl,--exclude-libs,ALL -Wl,-z,defs \
	    -Wl,-Bsymbolic -ldl $(LIBS)
	@mv $@.new $@

# An architecture of the plugin has been compiled when the plugin was made
# with KEEP_PTX=1, so `make test` does not compile it twice.
EMU_KEPT   = $(if $(and $(KEEP_PTX),$(word 2,$(CUDA_ARCHS))),\
             $(filter $(CUDA_ARCHS),$(EMU_ARCHS)))

define EMU_PTX_RULE
$$(EMU)/ptx/$1/%.ptx: kernels/cuda/%.cu
	@mkdir -p $$(@D)
	$$(call say,PTX,$$< $1)
	$$(Q)$$(NVCC) -O3 -std=c++17 -fmad=false -lineinfo -ptx \
	    -gencode arch=compute_$1,code=compute_$1 -Iengine -Ikernels \
	    -Ikernels/cuda -I$$(BUILD) -MMD -MP -o $$@ $$<
endef
# The same list of headers as the object's, for a build without KEEP_PTX.
define EMU_KEPT_RULE
$$(EMU)/ptx/$1/%.ptx: $$(CUDA_DIR)/kernels/cuda/%.cu.o
	@mkdir -p $$(@D)
	@ln -f $$(CUDA_KEPT)/$$*/$$*.compute_$1.ptx $$@
	@sed '1s|^[^:]*:|$$@:|' $$(<:.o=.d) > $$(@:.ptx=.d)
	@touch $$@
endef
$(foreach a,$(filter-out $(EMU_KEPT),$(EMU_ARCHS)),\
    $(eval $(call EMU_PTX_RULE,$a)))
$(foreach a,$(EMU_KEPT),$(eval $(call EMU_KEPT_RULE,$a)))

-include $(shell find $(EMU) -name '*.d' 2>/dev/null)

.PHONY: emu check-cuda check-cuda-emu check-cuda-ptx cover-cuda-ptx \
        cuda-tests-built emu-tests
emu: $(EMU_PLUGIN) $(SIM_BLAS_SO)      ## the CUDA plugin on the emulator, and a fake cublasLt

emu-tests: $(EMU_TESTS)

cuda-tests-built: $(SIM_TESTS) $(EMU_TESTS) $(CHK_TESTS) \
    $(if $(NVCC),$(EMU)/test_ptx_files \
    $(foreach a,$(EMU_ARCHS),$(call EMU_PTX,$a)))

# More than a hundred files, some of which take half a minute: on all cores.
check-cuda:                            ## CUDA kernels without a GPU: emulator, checker, nvcc's PTX
	@$(MAKE) --no-print-directory $(JOBS) cuda-tests-built
	@$(MAKE) --no-print-directory check-cuda-emu check-cuda-ptx

# Each test runs in three orders of threads and of queued work by itself;
# the checker does not depend on the order, is slower and may take 2 GB. A
# test keeps one core busy.
check-cuda-emu: $(SIM_TESTS) $(EMU_TESTS) $(CHK_TESTS)
	prove -e python3 $(wildcard kernels/sim/test/test_*.py)
	prove $(JOBS) -e '' $(EMU_TESTS) $(SIM_TESTS)
	INFER_QUICK=1 SIMT_ORDER=2 SIMT_STREAMS=random \
	    prove $(JOBS) -e '' $(CHK_TESTS)

space := $(subst ,, )
ifeq ($(NVCC),)
check-cuda-ptx:
	@echo "no nvcc (NVCC=): nothing runs through the PTX interpreter"
else
check-cuda-ptx: $(EMU_TESTS) $(CHK_TESTS) $(EMU)/test_ptx_files \
    $(foreach a,$(EMU_ARCHS),$(call EMU_PTX,$a))
	$(foreach a,$(EMU_ARCHS),$(call EMU_RUN,$a) SIMT_ORDER=0 INFER_QUICK=1 \
	    prove $(JOBS) -e '' $(EMU_TESTS) $(EMU)/test_ptx_files && ) true

# Which of nvcc's instructions no test executes; one architecture. About a
# minute of one core; it fails while any is neither run nor explained.
cover-cuda-ptx: $(EMU_TESTS) $(call EMU_PTX,90a)  ## PTX that no test executes
	@rm -rf $(EMU)/cover && mkdir -p $(EMU)/cover
	$(call EMU_RUN,90a) SIMT_ORDER=0 SIMT_PTX_COVER=$(EMU)/cover \
	    prove -e '' $(EMU_TESTS)
	python3 kernels/sim/ptx_cover.py --compiler $(NVCC_VERSION) \
	    --explained kernels/sim/ptx_unreached.txt $(EMU)/cover
endif
