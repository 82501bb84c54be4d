# sim.mk: the CUDA kernels and the host code around them, built by g++ and
# gcc against the emulator in kernels/sim: tests and the plugin
# libngx_infer_cuda_emu.so. No toolkit and no GPU. Included by the Makefile.
#
#   $(EMU)/test_*       plain; SIMT_ORDER= and SIMT_STREAMS= choose schedules
#   $(EMU)/chk/test_*   kernels instrumented, the checker linked in

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
# libtsan is not linked: check.cpp answers the calls.
EMU_CHECK := -fsanitize=thread --param tsan-instrument-func-entry-exit=0

SIM_CHECK := kernels/sim/check.cpp kernels/sim/report.cpp kernels/sim/perf.cpp
SIM_SRC   := $(filter-out $(SIM_CHECK) kernels/sim/blas_fake.cpp,\
             $(wildcard kernels/sim/*.cpp))
SIM_OBJ   := $(patsubst %.cpp,$(EMU)/obj/%.o,$(SIM_SRC))
SIM_CHECK_OBJ := $(patsubst %.cpp,$(EMU)/obj/%.o,$(wildcard $(SIM_CHECK)))
EMU_C_OBJ := $(patsubst %.c,$(EMU)/obj/%.o,$(EMU_C))
# As a library, and in tests of kernels: cu_blas_open(.., "", ..) finds it.
SIM_BLAS  := $(EMU)/obj/kernels/sim/blas_fake.o
SIM_BLAS_SO := $(EMU)/lib/libcublasLt.so.13

EMU_TESTS := $(patsubst %.cpp,$(EMU)/%,$(notdir \
             $(wildcard kernels/cuda/test/test_cuda_*.cpp)))
SIM_TESTS := $(patsubst %.cpp,$(EMU)/%,$(notdir \
             $(wildcard kernels/sim/test/test_sim*.cpp)))
CHK_TESTS := $(patsubst $(EMU)/%,$(EMU)/chk/%,$(EMU_TESTS) $(SIM_TESTS))

$(EMU)/obj/%.cu.o: %.cu | $(BUILD)/infer_build_id.h
	@mkdir -p $(@D)
	$(call say,EMU,$<)
	$(Q)$(EMU_CXX) $(EMU_FLAGS) -MMD -MP -x c++ -c -o $@ $<
$(EMU)/chk/obj/%.cu.o: %.cu | $(BUILD)/infer_build_id.h
	@mkdir -p $(@D)
	$(call say,CHECK,$<)
	$(Q)$(EMU_CXX) $(EMU_FLAGS) $(EMU_CHECK) -MMD -MP -x c++ -c -o $@ $<
$(EMU)/obj/%.o: %.cpp | $(BUILD)/infer_build_id.h
	@mkdir -p $(@D)
	$(call say,EMU,$<)
	$(Q)$(EMU_CXX) $(EMU_FLAGS) -MMD -MP -c -o $@ $<
$(EMU)/obj/%.o: %.c | $(BUILD)/infer_build_id.h
	@mkdir -p $(@D)
	$(call say,EMU,$<)
	$(Q)$(CC) $(EMU_CFLAGS) -MMD -MP -c -o $@ $<
# The emulator's own tests have kernels in them.
$(EMU)/chk/obj/kernels/sim/test/%.o: kernels/sim/test/%.cpp \
    | $(BUILD)/infer_build_id.h
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
$(EMU)/test_sim%: $(EMU)/obj/kernels/sim/test/test_sim%.o $(SIM_OBJ)
	$(call say,LINK,$@)
	$(Q)$(EMU_LINK)
$(EMU)/chk/test_sim%: $(EMU)/chk/obj/kernels/sim/test/test_sim%.o \
    $(SIM_OBJ) $(SIM_CHECK_OBJ)
	$(call say,LINK,$@)
	$(Q)$(EMU_LINK)

$(SIM_BLAS_SO): $(SIM_BLAS)
	@mkdir -p $(@D)
	$(call say,LINK,$@)
	$(Q)$(EMU_CXX) -shared -Wl,-soname,$(@F) -o $@ $^

-include $(shell find $(EMU) -name '*.d' 2>/dev/null)
