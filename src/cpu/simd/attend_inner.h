#pragma once
namespace folio { namespace { constexpr AttendInner attend_inner = {}; } }
