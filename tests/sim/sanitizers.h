// SPDX-License-Identifier: MIT
// Which sanitizers this file is compiled with, for g++ and clang: 0 or 1. UBSan comes with ASan in every build of ours.
#pragma once

#ifdef __has_feature
#define FOLIO_HAS(feature) __has_feature(feature)
#else
#define FOLIO_HAS(feature) 0
#endif
#if defined(__SANITIZE_ADDRESS__) || FOLIO_HAS(address_sanitizer)
#define FOLIO_ASAN 1
#else
#define FOLIO_ASAN 0
#endif
#if defined(__SANITIZE_THREAD__) || FOLIO_HAS(thread_sanitizer)
#define FOLIO_TSAN 1
#else
#define FOLIO_TSAN 0
#endif
#undef FOLIO_HAS
