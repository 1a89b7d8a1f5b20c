-- The `bit` library: operations on 32-bit integers.
-- Source: Lua BitOp 1.0 for meaning and errors. The arithmetic is the daemon's: Lua 5.1 has none for bits.

local host, kit = ...

local abs, floor, format, select, upper = math.abs, math.floor, string.format, select, string.upper
local bits, check_number = host.bits, kit.check_number

local bit = {}
kit.globals.bit = bit

local function unary(name)
    bit[name] = function(...)
        return bits(name, check_number(1, name, (...), select("#", ...)), 0)
    end
end

local function shift(name)
    bit[name] = function(...)
        local count = select("#", ...)
        local number, distance = ...
        return bits(name, check_number(1, name, number, count), check_number(2, name, distance, count))
    end
end

-- Any number of operands, at least one.
local function fold(name)
    bit[name] = function(...)
        local count = select("#", ...)
        local result = bits("tobit", check_number(1, name, (...), count), 0)
        for index = 2, count do
            result = bits(name, result, check_number(index, name, (select(index, ...)), count))
        end
        return result
    end
end

for _, name in ipairs({ "tobit", "bnot", "bswap" }) do
    unary(name)
end
for _, name in ipairs({ "lshift", "rshift", "arshift", "rol", "ror" }) do
    shift(name)
end
for _, name in ipairs({ "band", "bor", "bxor" }) do
    fold(name)
end

-- Hexadecimal digits, the last 8 or as many as asked for; a negative number asks for capitals.
function bit.tohex(...)
    local count = select("#", ...)
    local number, digits = ...
    number = bits("tobit", check_number(1, "tohex", number, count), 0) % 4294967296
    if count < 2 then
        return format("%08x", number)
    end
    digits = bits("tobit", check_number(2, "tohex", digits, count), 0)
    local length = abs(digits) < 8 and abs(digits) or 8
    local text = length == 0 and "" or format("%0" .. length .. "x", number % 16 ^ length)
    return digits < 0 and upper(text) or text
end
