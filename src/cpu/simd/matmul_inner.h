#pragma once
namespace folio { namespace { constexpr MatmulInner matmul_inner = {}; } }
