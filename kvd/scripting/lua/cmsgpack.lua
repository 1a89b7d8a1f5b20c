-- The `cmsgpack` library: MessagePack.
-- Source: lua-cmsgpack 0.4.0 as Redis has it: which form a value gets, limits and errors; MessagePack
-- specification for the bytes. (Redis's version knows no binary and no extension types.)

local host, kit = ...

local byte, char, concat, sub = string.byte, string.char, table.concat, string.sub
local error, floor, next, rawget = error, math.floor, next, rawget
local select, type, unpack = select, type, unpack
local pack_float, unpack_float, received = host.pack_float, host.unpack_float, kit.received
local bad_argument, raise = kit.bad_argument, kit.raise
local check_number, check_string, behind = kit.check_number, kit.check_string, kit.behind

-- Tables nested deeper than this are packed as nil.
local NESTING_MAX = 16
local TWO_63, TWO_64 = 2 ^ 63, 2 ^ 64

-- --- packing

-- Return a whole number, not negative, in `size` bytes, the highest first.
local function big_endian(number, size)
    local bytes = {}
    for index = size, 1, -1 do
        local low = number % 256
        bytes[index] = low
        number = (number - low) / 256
    end
    return char(unpack(bytes))
end

local function packed_integer(number)
    if number >= 0 then
        if number < 0x80 then
            return char(number)
        elseif number < 0x100 then
            return "\204" .. char(number)
        elseif number < 0x10000 then
            return "\205" .. big_endian(number, 2)
        elseif number < 0x100000000 then
            return "\206" .. big_endian(number, 4)
        end
        return "\207" .. big_endian(number, 8)
    end
    if number >= -32 then
        return char(256 + number)
    elseif number >= -0x80 then
        return "\208" .. char(256 + number)
    elseif number >= -0x8000 then
        return "\209" .. big_endian(number % 0x10000, 2)
    elseif number >= -0x80000000 then
        return "\210" .. big_endian(number % 0x100000000, 4)
    end
    return "\211" .. big_endian(number, 8)
end

local function packed_number(number)
    if number == floor(number) and number >= -TWO_63 and number < TWO_63 then
        return packed_integer(number)
    end
    local short = received(pack_float(number, ">f"))
    if unpack_float(short, ">f") == number then
        return "\202" .. short
    end
    return "\203" .. received(pack_float(number, ">d"))
end

local function packed_length(length, fixed, fixed_max, bytes_1, bytes_2, bytes_4)
    if length <= fixed_max then
        return char(fixed + length)
    elseif bytes_1 and length < 0x100 then
        return char(bytes_1, length)
    elseif length < 0x10000 then
        return char(bytes_2) .. big_endian(length, 2)
    end
    return char(bytes_4) .. big_endian(length, 4)
end

-- Return the length of a table whose keys are 1 to n, else nil, and how many keys it has.
local function array_length(value)
    local count, greatest, is_array = 0, 0, true
    for key in next, value do
        count = count + 1
        if type(key) ~= "number" or key <= 0 or key ~= floor(key) then
            is_array = false
        elseif key > greatest then
            greatest = key
        end
    end
    return is_array and greatest == count and count or nil, count
end

local put

local function put_table(parts, value, depth)
    local length, count = array_length(value)
    if length then
        parts[#parts + 1] = packed_length(length, 0x90, 15, nil, 0xDC, 0xDD)
        for index = 1, length do
            put(parts, rawget(value, index), depth + 1)
        end
    else
        parts[#parts + 1] = packed_length(count, 0x80, 15, nil, 0xDE, 0xDF)
        for key, item in next, value do
            put(parts, key, depth + 1)
            put(parts, item, depth + 1)
        end
    end
end

function put(parts, value, depth)
    local kind = type(value)
    if kind == "string" then
        parts[#parts + 1] = packed_length(#value, 0xA0, 31, 0xD9, 0xDA, 0xDB)
        parts[#parts + 1] = value
    elseif kind == "number" then
        parts[#parts + 1] = packed_number(value)
    elseif kind == "boolean" then
        parts[#parts + 1] = value and "\195" or "\194"
    elseif kind == "table" and depth < NESTING_MAX then
        put_table(parts, behind[value] or value, depth)
    else
        parts[#parts + 1] = "\192"
    end
end

-- --- unpacking: each reader takes (data, position behind the type byte) and returns value, next position

local get

-- Return `size` bytes from `position` on.
local function bytes_at(data, position, size)
    if position + size - 1 > #data then
        raise("Missing bytes in input.")
    end
    return sub(data, position, position + size - 1)
end

local function unsigned_at(data, position, size)
    local bytes = bytes_at(data, position, size)
    local number = 0
    for index = 1, size do
        number = number * 256 + byte(bytes, index)
    end
    return number
end

local function signed_at(data, position, size)
    local number = unsigned_at(data, position, size)
    if byte(data, position) < 0x80 then
        return number
    end
    -- Above 2^53 the sum was rounded; count from the top instead.
    local complement = 1
    for index = 0, size - 1 do
        complement = complement + (255 - byte(data, position + index)) * 256 ^ (size - 1 - index)
    end
    return -complement
end

local function unsigned(size)
    return function(data, position)
        return unsigned_at(data, position, size), position + size
    end
end

local function signed(size)
    return function(data, position)
        return signed_at(data, position, size), position + size
    end
end

local function float(form, size)
    return function(data, position)
        return unpack_float(bytes_at(data, position, size), form), position + size
    end
end

local function get_string(data, position, length)
    return bytes_at(data, position, length), position + length
end

local function get_array(data, position, length)
    local list = {}
    for index = 1, length do
        list[index], position = get(data, position)
    end
    return list, position
end

local function get_map(data, position, length)
    local map = {}
    for _ = 1, length do
        local key, value
        key, position = get(data, position)
        value, position = get(data, position)
        if key == nil then
            error("table index is nil", 0)
        elseif key ~= key then
            error("table index is NaN", 0)
        end
        map[key] = value
    end
    return map, position
end

local function sized(reader, size)
    return function(data, position)
        local length = unsigned_at(data, position, size)
        return reader(data, position + size, length)
    end
end

local function constant(value)
    return function(_, position)
        return value, position
    end
end

local READERS = {
    [0xC0] = constant(nil),
    [0xC2] = constant(false),
    [0xC3] = constant(true),
    [0xCA] = float(">f", 4),
    [0xCB] = float(">d", 8),
    [0xCC] = unsigned(1),
    [0xCD] = unsigned(2),
    [0xCE] = unsigned(4),
    [0xCF] = signed(8), -- Redis takes a lua_Integer for it
    [0xD0] = signed(1),
    [0xD1] = signed(2),
    [0xD2] = signed(4),
    [0xD3] = signed(8),
    [0xD9] = sized(get_string, 1),
    [0xDA] = sized(get_string, 2),
    [0xDB] = sized(get_string, 4),
    [0xDC] = sized(get_array, 2),
    [0xDD] = sized(get_array, 4),
    [0xDE] = sized(get_map, 2),
    [0xDF] = sized(get_map, 4),
}

function get(data, position)
    local head = byte(data, position)
    if not head then
        raise("Missing bytes in input.")
    elseif head < 0x80 then
        return head, position + 1
    elseif head >= 0xE0 then
        return head - 256, position + 1
    elseif head < 0x90 then
        return get_map(data, position + 1, head - 0x80)
    elseif head < 0xA0 then
        return get_array(data, position + 1, head - 0x90)
    elseif head < 0xC0 then
        return get_string(data, position + 1, head - 0xA0)
    end
    local reader = READERS[head]
    if not reader then
        raise("Bad data format in input.")
    end
    return reader(data, position + 1)
end

-- --- the library

local cmsgpack = {}
kit.globals.cmsgpack = cmsgpack

function cmsgpack.pack(...)
    local count = select("#", ...)
    if count == 0 then
        bad_argument(0, "pack", "MessagePack pack needs input.")
    end
    local parts, arguments = {}, { ... }
    for index = 1, count do
        put(parts, arguments[index], 0)
    end
    return concat(parts)
end

-- Return values from `offset` on, at most `limit`; with an offset or a limit, the next offset comes first.
local function unpack_values(data, limit, offset)
    if offset < 0 or limit < 0 then
        raise("Invalid request to unpack with offset of " .. offset .. " and limit of " .. #data .. ".")
    elseif offset > #data then
        raise("Start offset " .. offset .. " greater than input length " .. #data .. ".")
    end
    local all = limit == 0 and offset == 0
    local values, count, position = {}, 0, offset + 1
    while position <= #data and (all or count < limit) do
        count = count + 1
        values[count], position = get(data, position)
    end
    if count > 7000 then
        raise("too many results to unpack")
    end
    if all then
        return unpack(values, 1, count)
    end
    return position > #data and -1 or position - 1, unpack(values, 1, count)
end

function cmsgpack.unpack(...)
    return unpack_values(check_string(1, "unpack", (...), select("#", ...)), 0, 0)
end

function cmsgpack.unpack_one(...)
    local count = select("#", ...)
    local data, offset = ...
    data = check_string(1, "unpack_one", data, count)
    return unpack_values(data, 1, floor(offset == nil and 0 or check_number(2, "unpack_one", offset)))
end

function cmsgpack.unpack_limit(...)
    local count = select("#", ...)
    local data, limit, offset = ...
    data = check_string(1, "unpack_limit", data, count)
    limit = floor(check_number(2, "unpack_limit", limit, count))
    return unpack_values(data, limit, floor(offset == nil and 0 or check_number(3, "unpack_limit", offset)))
end

cmsgpack._NAME, cmsgpack._VERSION = "cmsgpack", "lua-cmsgpack 0.4.0"
