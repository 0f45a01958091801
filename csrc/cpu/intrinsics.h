// The compiler's functions for vector instructions, for kernel files.
#pragma once

#if defined(__AVX2__)
#include <immintrin.h>
#endif
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // false alarms in GCC 12's AVX-512 headers
#endif
