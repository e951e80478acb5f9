local _std = std;
local std = _std + {
  range(from, to)::
    if to - from >= 100000 then error 'std.range: more than 100000 items' else _std.range(from, to),
  makeArray(sz, func)::
    if sz > 100000 then error 'std.makeArray: more than 100000 items' else _std.makeArray(sz, func),
  repeat(what, count)::
    if _std.length(what) * count > 1000000 then error 'std.repeat: more than 1000000 items'
    else _std.repeat(what, count),
};
local _undefined() = null;
local Ip() = _std.native('_ip')();
local Now(format='%Y-%m-%dT%H:%M:%S.%fZ') = _std.native('_now')(format);
local HeaderStr() = _std.native('_headerStr')();
local Header(header='', default=_undefined) =
  if header == '' then _std.native('_headers')() else _std.native('_header')(header, default);
local BodyStr() = _std.native('_bodyStr')();
local Body(path='', default=_undefined) =
  if path == '' then _std.native('_body')() else _std.native('_bodyPath')(path, default);
function(_)
