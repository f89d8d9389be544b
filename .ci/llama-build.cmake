# Builds of llama-cpp-python what KoSent uses, libllama and ggml, and nothing else: five minutes become two and a half.
# Read by CMake after `project(llama.cpp)` and `project(ggml)` (CMAKE_PROJECT_<NAME>_INCLUDE).
if(PROJECT_NAME STREQUAL "ggml")
    # the kernels, where the time of inference goes: full optimization, one file at a time
    set(CMAKE_UNITY_BUILD OFF)
    set(CMAKE_CXX_FLAGS_RELEASE "-O3 -DNDEBUG")
    # ggml's AMX kernels of this version end with an illegal instruction on Sapphire Rapids (tilezero before a tile is configured)
    if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
        include(CheckCXXCompilerFlag)
        check_cxx_compiler_flag(-mno-amx-tile KOSENT_CAN_LEAVE_OUT_AMX)
        if(KOSENT_CAN_LEAVE_OUT_AMX)
            add_compile_options(-mno-amx-tile -mno-amx-int8 -mno-amx-bf16)
        endif()
    endif()
else()
    # model graphs, vocabulary, samplers; the `common` library is for llama.cpp's own programs
    set(LLAMA_BUILD_COMMON OFF)
    set(CMAKE_UNITY_BUILD ON)
    set(CMAKE_UNITY_BUILD_BATCH_SIZE 12)
    set(CMAKE_CXX_FLAGS_RELEASE "-O2 -DNDEBUG")
endif()
