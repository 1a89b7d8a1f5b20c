-- The `cjson` library: JSON.
-- Source: lua-cjson 2.1.0 as Redis has it: what is accepted, how numbers look, limits, settings and errors.
--
-- One difference: settings last until the script ends. In Redis they last until the server does, and so
-- change what other scripts do.

local host, kit = ...

local byte, char, concat, find, format = string.byte, string.char, table.concat, string.find, string.format
local gsub, lower, sub = string.gsub, string.lower, string.sub
local floor, getmetatable, huge, newproxy, next = math.floor, getmetatable, math.huge, newproxy, next
local pairs, rawget, select, tonumber, type = pairs, rawget, select, tonumber, type
local bad_argument, raise = kit.bad_argument, kit.raise
local check_number, check_string, behind = kit.check_number, kit.check_string, kit.behind

local INT_MAX = 2147483647
-- What a double has for certain; with more, the same number would look different on other machines.
local PRECISION_MAX = 14

-- The one value for JSON's null: false would be lost among the others, nil in tables.
local null = newproxy(true)
getmetatable(null).__tostring = function()
    return "userdata: (nil)"
end
getmetatable(null).__metatable = false

-- --- encoding

local ESCAPES = { ['"'] = '\\"', ["\\"] = "\\\\", ["/"] = "\\/", ["\127"] = "\\u007f" }
for code = 0, 31 do
    ESCAPES[char(code)] = format("\\u%04x", code)
end
for letter, code in pairs({ b = 8, t = 9, n = 10, f = 12, r = 13 }) do
    ESCAPES[char(code)] = "\\" .. letter
end

local function encoded_string(text)
    if find(text, '[%c"\\/]') then
        text = gsub(text, '[%c"\\/]', ESCAPES)
    end
    return '"' .. text .. '"'
end

local function cannot_encode(value, reason)
    raise("Cannot serialise " .. type(value) .. ": " .. reason)
end

local function encoded_number(settings, number)
    if number ~= number or number == huge or number == -huge then
        local allowed = settings.encode_invalid_numbers
        if allowed == "null" then
            return "null"
        elseif not allowed then
            cannot_encode(number, "must not be NaN or Inf")
        end
        return number ~= number and "nan" or number > 0 and "inf" or "-inf"
    end
    return format(settings.number_format, number)
end

-- Return the length of a table that is an array, also one with holes, or nil.
local function array_length(settings, value)
    local greatest, count = 0, 0
    for key in next, value do
        if type(key) ~= "number" or key < 1 or key ~= floor(key) then
            return nil
        end
        count = count + 1
        if key > greatest then
            greatest = key
        end
    end
    local ratio = settings.sparse_ratio
    if ratio > 0 and greatest > count * ratio and greatest > settings.sparse_safe then
        if not settings.sparse_convert then
            cannot_encode(value, "excessively sparse array")
        end
        return nil
    end
    return greatest > 0 and greatest or nil
end

local put

local function put_array(settings, parts, value, length, depth)
    parts[#parts + 1] = "["
    for index = 1, length do
        if index > 1 then
            parts[#parts + 1] = ","
        end
        put(settings, parts, rawget(value, index), depth)
    end
    parts[#parts + 1] = "]"
end

local function put_object(settings, parts, value, depth)
    parts[#parts + 1] = "{"
    local separator = ""
    for key, item in next, value do
        if type(key) == "string" then
            parts[#parts + 1] = separator .. encoded_string(key) .. ":"
        elseif type(key) == "number" then
            parts[#parts + 1] = separator .. '"' .. encoded_number(settings, key) .. '":'
        else
            cannot_encode(key, "table key must be a number or string")
        end
        separator = ","
        put(settings, parts, item, depth)
    end
    parts[#parts + 1] = "}"
end

function put(settings, parts, value, depth)
    local kind = type(value)
    if kind == "string" then
        parts[#parts + 1] = encoded_string(value)
    elseif kind == "number" then
        parts[#parts + 1] = encoded_number(settings, value)
    elseif kind == "boolean" then
        parts[#parts + 1] = value and "true" or "false"
    elseif value == nil or value == null then
        parts[#parts + 1] = "null"
    elseif kind == "table" then
        depth = depth + 1
        if depth > settings.encode_depth_max then
            raise("Cannot serialise, excessive nesting (" .. depth .. ")")
        end
        value = behind[value] or value
        local length = array_length(settings, value)
        if length then
            put_array(settings, parts, value, length, depth)
        else
            put_object(settings, parts, value, depth)
        end
    else
        cannot_encode(value, "type not supported")
    end
end

-- --- decoding: each reader takes (state, position) and returns value, next position

local TOKENS = {
    ["{"] = "T_OBJ_BEGIN",
    ["}"] = "T_OBJ_END",
    ["["] = "T_ARR_BEGIN",
    ["]"] = "T_ARR_END",
    [","] = "T_COMMA",
    [":"] = "T_COLON",
    ['"'] = "T_STRING",
    ["\0"] = "T_END",
    [""] = "T_END",
}
local LITERALS = { t = "true", f = "false", n = "null" }
local VALUES = { t = true, f = false, n = null }
local UNESCAPED = { b = "\b", t = "\t", n = "\n", f = "\f", r = "\r", ['"'] = '"', ["\\"] = "\\", ["/"] = "/" }

local function fail(expected, found, position)
    raise("Expected " .. expected .. " but found " .. found .. " at character " .. position)
end

-- Return the position of the next character that is not white space; behind the end if there is none.
local function skip(text, position)
    return find(text, "[^ \t\n\r]", position) or #text + 1
end

-- What strtod accepts, the longest first.
local NUMBERS = {
    "^[+-]?0[xX]%x+%.?%x*[pP][+-]?%d+",
    "^[+-]?0[xX]%x+%.?%x*",
    "^[+-]?%d+%.?%d*[eE][+-]?%d+",
    "^[+-]?%d+%.?%d*",
    "^[+-]?%.%d+[eE][+-]?%d+",
    "^[+-]?%.%d+",
    "^[+-]?[iI][nN][fF][iI][nN][iI][tT][yY]",
    "^[+-]?[iI][nN][fF]",
    "^[+-]?[nN][aA][nN]",
}

-- Tell whether a number is one that JSON does not know: +1, 01, 0x1, inf, nan.
local function is_beyond_json(text, position)
    if find(text, "^%+", position) then
        return true
    end
    local first = find(text, "^%-", position) and position + 1 or position
    if find(text, "^0[xX%d]", first) then
        return true
    end
    local word = lower(sub(text, first, first + 2))
    return word == "inf" or word == "nan"
end

local function read_number(text, position, expected)
    for index = 1, #NUMBERS do
        local _, last = find(text, NUMBERS[index], position)
        if last then
            return tonumber(sub(text, position, last)), last + 1
        end
    end
    fail(expected, "invalid number", position)
end

local function utf8(code)
    if code < 0x80 then
        return char(code)
    elseif code < 0x800 then
        return char(0xC0 + floor(code / 0x40), 0x80 + code % 0x40)
    elseif code < 0x10000 then
        return char(0xE0 + floor(code / 0x1000), 0x80 + floor(code / 0x40) % 0x40, 0x80 + code % 0x40)
    end
    return char(
        0xF0 + floor(code / 0x40000),
        0x80 + floor(code / 0x1000) % 0x40,
        0x80 + floor(code / 0x40) % 0x40,
        0x80 + code % 0x40
    )
end

-- Return the character of the escape \uXXXX (or a pair of surrogates) at `position`, and what follows.
local function read_unicode(text, position, expected)
    local code = find(text, "^\\u%x%x%x%x", position) and tonumber(sub(text, position + 2, position + 5), 16)
    if code and code >= 0xD800 and code < 0xDC00 and find(text, "^\\u[dD][c-fC-F]%x%x", position + 6) then
        local second = tonumber(sub(text, position + 8, position + 11), 16)
        return utf8(0x10000 + (code - 0xD800) * 0x400 + second - 0xDC00), position + 12
    elseif not code or (code >= 0xD800 and code < 0xE000) then
        fail(expected, "invalid unicode escape code", position)
    end
    return utf8(code), position + 6
end

-- `position` is that of the opening quote.
local function read_string(text, position, expected)
    local first = position + 1
    local stop = find(text, '["\\%z]', first)
    if stop and byte(text, stop) == 34 then
        return sub(text, first, stop - 1), stop + 1
    end
    local parts = {}
    while true do
        if not stop or byte(text, stop) == 0 then
            fail(expected, "unexpected end of string", stop or #text + 1)
        end
        parts[#parts + 1] = sub(text, first, stop - 1)
        local mark = sub(text, stop, stop)
        if mark == '"' then
            return concat(parts), stop + 1
        end
        local escape = sub(text, stop + 1, stop + 1)
        if escape == "u" then
            parts[#parts + 1], first = read_unicode(text, stop, expected)
        elseif UNESCAPED[escape] then
            parts[#parts + 1], first = UNESCAPED[escape], stop + 2
        else
            fail(expected, "invalid escape code", stop)
        end
        stop = find(text, '["\\%z]', first)
    end
end

-- Return the name of the token at `position` as errors show it.
local function token_name(settings, text, position, expected)
    local mark = sub(text, position, position)
    if mark == '"' then
        read_string(text, position, expected)
        return "T_STRING"
    elseif TOKENS[mark] then
        return TOKENS[mark]
    elseif find(mark, "[%d-]") then
        if not settings.decode_invalid_numbers and is_beyond_json(text, position) then
            return "invalid number"
        end
        read_number(text, position, expected)
        return "T_NUMBER"
    end
    local literal = LITERALS[mark]
    if literal and sub(text, position, position + #literal - 1) == literal then
        return literal == "null" and "T_NULL" or "T_BOOLEAN"
    elseif settings.decode_invalid_numbers and is_beyond_json(text, position) then
        read_number(text, position, expected)
        return "T_NUMBER"
    end
    return "invalid token"
end

local function unexpected(settings, expected, text, position)
    fail(expected, token_name(settings, text, position, expected), position)
end

local read

local function descend(settings, position, depth)
    depth = depth + 1
    if depth > settings.decode_depth_max then
        raise("Found too many nested data structures (" .. depth .. ") at character " .. position)
    end
    return depth
end

local function read_array(settings, text, position, depth)
    depth = descend(settings, position, depth)
    local list, count = {}, 0
    position = skip(text, position + 1)
    if byte(text, position) == 93 then
        return list, position + 1
    end
    while true do
        count = count + 1
        list[count], position = read(settings, text, position, depth)
        position = skip(text, position)
        local mark = byte(text, position)
        if mark == 93 then
            return list, position + 1
        elseif mark ~= 44 then
            unexpected(settings, "comma or array end", text, position)
        end
        position = skip(text, position + 1)
    end
end

local function read_object(settings, text, position, depth)
    depth = descend(settings, position, depth)
    local object = {}
    position = skip(text, position + 1)
    if byte(text, position) == 125 then
        return object, position + 1
    end
    while true do
        if byte(text, position) ~= 34 then
            unexpected(settings, "object key string", text, position)
        end
        local key
        key, position = read_string(text, position, "object key string")
        position = skip(text, position)
        if byte(text, position) ~= 58 then
            unexpected(settings, "colon", text, position)
        end
        object[key], position = read(settings, text, skip(text, position + 1), depth)
        position = skip(text, position)
        local mark = byte(text, position)
        if mark == 125 then
            return object, position + 1
        elseif mark ~= 44 then
            unexpected(settings, "comma or object end", text, position)
        end
        position = skip(text, position + 1)
    end
end

function read(settings, text, position, depth)
    local mark = sub(text, position, position)
    if mark == '"' then
        return read_string(text, position, "value")
    elseif mark == "{" then
        return read_object(settings, text, position, depth)
    elseif mark == "[" then
        return read_array(settings, text, position, depth)
    end
    local name = token_name(settings, text, position, "value")
    if name == "T_NUMBER" then
        return read_number(text, position, "value")
    elseif name == "T_NULL" or name == "T_BOOLEAN" then
        return VALUES[mark], position + #LITERALS[mark]
    end
    fail("value", name, position)
end

local function decode(settings, text)
    if #text >= 2 and find(sub(text, 1, 2), "%z") then
        raise("JSON parser does not support UTF-16 or UTF-32")
    end
    local value, position = read(settings, text, skip(text, 1), 0)
    position = skip(text, position)
    if position <= #text and byte(text, position) ~= 0 then
        unexpected(settings, "the end", text, position)
    end
    return value
end

-- --- the library

local function defaults(settings)
    settings.encode_depth_max, settings.decode_depth_max = 1000, 1000
    settings.encode_invalid_numbers, settings.decode_invalid_numbers = false, true
    settings.precision, settings.number_format = PRECISION_MAX, "%." .. PRECISION_MAX .. "g"
    settings.sparse_convert, settings.sparse_ratio, settings.sparse_safe = false, 2, 10
    settings.keep_buffer = true
    return settings
end

-- Raise if there are more arguments than a setting takes.
local function check_count(name, count, most)
    if count > most then
        bad_argument(most + 1, name, "found too many arguments")
    end
end

local function check_whole(index, name, value, least, greatest)
    local number = check_number(index, name, value)
    number = number >= 0 and floor(number) or -floor(-number)
    if not (number >= least and number <= greatest) then
        bad_argument(index, name, "expected integer between " .. least .. " and " .. greatest)
    end
    return number
end

-- Return the meaning of true, false, "on", "off" or one of the further words of a setting.
local function check_choice(index, name, value, further)
    if type(value) == "boolean" then
        return value
    end
    local word = check_string(index, name, value)
    if word == "on" or word == "off" then
        return word == "on"
    elseif word ~= further then
        bad_argument(index, name, "invalid option '" .. word .. "'")
    end
    return word
end

local library

function library(settings)
    local cjson = { null = null, _NAME = "cjson", _VERSION = "2.1.0" }

    function cjson.encode(...)
        if select("#", ...) ~= 1 then
            bad_argument(1, "encode", "expected 1 argument")
        end
        local parts = {}
        put(settings, parts, (...), 0)
        return concat(parts)
    end

    function cjson.decode(...)
        if select("#", ...) ~= 1 then
            bad_argument(1, "decode", "expected 1 argument")
        end
        return decode(settings, check_string(1, "decode", (...)))
    end

    local function number_setting(name, key, greatest)
        cjson[name] = function(...)
            check_count(name, select("#", ...), 1)
            if (...) ~= nil then
                settings[key] = check_whole(1, name, (...), 1, greatest)
            end
            return settings[key]
        end
    end

    local function choice_setting(name, key, further)
        cjson[name] = function(...)
            check_count(name, select("#", ...), 1)
            if (...) ~= nil then
                settings[key] = check_choice(1, name, (...), further)
            end
            return settings[key]
        end
    end

    number_setting("encode_max_depth", "encode_depth_max", INT_MAX)
    number_setting("decode_max_depth", "decode_depth_max", INT_MAX)
    number_setting("encode_number_precision", "precision", PRECISION_MAX)
    choice_setting("encode_invalid_numbers", "encode_invalid_numbers", "null")
    choice_setting("decode_invalid_numbers", "decode_invalid_numbers")
    choice_setting("encode_keep_buffer", "keep_buffer") -- accepted: there is no buffer to keep

    local set_precision = cjson.encode_number_precision
    function cjson.encode_number_precision(...)
        local precision = set_precision(...)
        settings.number_format = "%." .. precision .. "g"
        return precision
    end

    function cjson.encode_sparse_array(...)
        local name = "encode_sparse_array"
        check_count(name, select("#", ...), 3)
        local convert, ratio, safe = ...
        if convert ~= nil then
            settings.sparse_convert = check_choice(1, name, convert)
        end
        if ratio ~= nil then
            settings.sparse_ratio = check_whole(2, name, ratio, 0, INT_MAX)
        end
        if safe ~= nil then
            settings.sparse_safe = check_whole(3, name, safe, 0, INT_MAX)
        end
        return settings.sparse_convert, settings.sparse_ratio, settings.sparse_safe
    end

    -- Settings of its own, as long as the script has it.
    function cjson.new()
        return library(defaults({}))
    end

    return cjson
end

local settings = defaults({})
kit.globals.cjson = library(settings)

function kit.reset_cjson()
    defaults(settings)
end
