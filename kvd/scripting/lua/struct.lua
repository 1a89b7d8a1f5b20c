-- The `struct` library: numbers and strings in binary, as a format string says.
--
--   > <        big or little endian from here on; little to begin with
--   !n         align to powers of two up to n (8 without a number)
--   x          one zero byte
--   b B h H l L T i[n] I[n]    integers of 1, 1, 2, 2, 8, 8, 8 and n (4) bytes; capitals are unsigned
--   f d        float and double
--   s          string up to a zero byte
--   c[n]       n (1) characters; c0 takes the whole string, or as many as the number before it says
--
-- Source: struct 0.2 by Roberto Ierusalimschy as Redis has it, errors included.

local host, kit = ...

local byte, char, concat, find, sub = string.byte, string.char, table.concat, string.find, string.sub
local floor, reverse, select, tonumber, type, unpack = math.floor, string.reverse, select, tonumber, type, unpack
local pack_float, unpack_float, received = host.pack_float, host.unpack_float, kit.received
local bad_argument, raise = kit.bad_argument, kit.raise
local check_number, check_string = kit.check_number, kit.check_string

local INTEGER_BYTES_MAX = 32
local ALIGNMENT = 8 -- of "!" without a number
local INT_MAX = 2147483647
local TWO_63, TWO_64 = 2 ^ 63, 2 ^ 64

local SIZES = { b = 1, B = 1, h = 2, H = 2, l = 8, L = 8, T = 8, f = 4, d = 8, x = 1 }
local IS_SIGNED = { b = true, h = true, l = true, i = true }
local IS_INTEGER = { b = true, B = true, h = true, H = true, l = true, L = true, T = true, i = true, I = true }

-- Read the number behind an option; return it and the next position in the format.
local function number_behind(format, position, default)
    local _, last = find(format, "^%d+", position)
    if not last then
        return default, position
    end
    local number = tonumber(sub(format, position, last))
    if number > INT_MAX then
        raise("integral size overflow")
    end
    return number, last + 1
end

-- Return the size of an option in bytes and the next position in the format.
local function size_of(option, format, position)
    if option == "c" then
        return number_behind(format, position, 1)
    elseif option == "i" or option == "I" then
        local size, after = number_behind(format, position, 4)
        if size > INTEGER_BYTES_MAX then
            raise("integral size " .. size .. " is larger than limit of " .. INTEGER_BYTES_MAX)
        end
        return size, after
    end
    return SIZES[option] or 0, position
end

local function is_power_of_two(number)
    while number > 1 and number % 2 == 0 do
        number = number / 2
    end
    return number == 1
end

-- Obey an option that only changes how the others are read. Returns the next position in the format.
local function obey(option, format, position, mode, name)
    if option == ">" or option == "<" then
        mode.little = option == "<"
    elseif option == "!" then
        local alignment, after = number_behind(format, position, ALIGNMENT)
        if not is_power_of_two(alignment) then
            raise("alignment " .. alignment .. " is not a power of 2")
        end
        mode.alignment = alignment
        return after
    elseif option ~= " " then
        bad_argument(1, name, "invalid format option '" .. option .. "'")
    end
    return position
end

-- Return `left` AND `right` for small whole numbers.
local function band(left, right)
    local result, weight = 0, 1
    while left > 0 and right > 0 do
        if left % 2 == 1 and right % 2 == 1 then
            result = result + weight
        end
        left, right, weight = floor(left / 2), floor(right / 2), weight * 2
    end
    return result
end

-- Return how many bytes bring `length` to where an option of this size may begin.
local function padding(length, mode, option, size)
    if size == 0 or option == "c" then
        return 0
    end
    if size > mode.alignment then
        size = mode.alignment
    end
    return band(size - band(length, size - 1), size - 1)
end

-- --- integers: doubles on the Lua side, 64 bits two's complement on the other

local function integer_bytes(number, size, little)
    number = number >= 0 and floor(number) or -floor(-number)
    if number ~= number or number < -TWO_63 then
        number = -TWO_63 -- what a C cast makes of it
    elseif number >= TWO_64 then
        number = 0
    end
    local bytes = {}
    for index = 1, size do
        if index > 8 then
            bytes[index] = 0
        else
            local low = number % 256
            bytes[index] = low
            number = (number - low) / 256
        end
    end
    local text = char(unpack(bytes))
    return little and text or reverse(text)
end

local function integer_from(data, first, size, little, signed)
    local number, weight = 0, 1
    for index = 0, (size < 8 and size or 8) - 1 do
        local at = little and first + index or first + size - 1 - index
        number = number + byte(data, at) * weight
        weight = weight * 256
    end
    if signed and number >= weight / 2 then
        -- Above 2^53 the sum was rounded; count from the top instead, which is as near.
        local complement = 1
        weight = 1
        for index = 0, (size < 8 and size or 8) - 1 do
            local at = little and first + index or first + size - 1 - index
            complement = complement + (255 - byte(data, at)) * weight
            weight = weight * 256
        end
        return -complement
    end
    return number
end

-- Zero loses its sign on the way to the host, so a negative one is put together here.
local function float_bytes(number, option, little)
    if number == 0 and 1 / number < 0 then
        local rest = ("\0"):rep(option == "f" and 3 or 7)
        return little and rest .. "\128" or "\128" .. rest
    end
    return received(pack_float(number, (little and "<" or ">") .. option))
end

-- --- the library

local struct = {}
kit.globals.struct = struct

function struct.pack(...)
    local count = select("#", ...)
    local arguments = { ... }
    local format = check_string(1, "pack", arguments[1], count)
    local mode = { little = true, alignment = 1 }
    local parts, length, argument, position = {}, 0, 2, 1

    local function add(text)
        parts[#parts + 1] = text
        length = length + #text
    end

    local stop = find(format, "%z") or #format + 1
    while position < stop do
        local option = sub(format, position, position)
        local size
        size, position = size_of(option, format, position + 1)
        local gap = padding(length, mode, option, size)
        if gap > 0 then
            add(("\0"):rep(gap))
        end
        if IS_INTEGER[option] then
            add(integer_bytes(check_number(argument, "pack", arguments[argument]), size, mode.little))
            argument = argument + 1
        elseif option == "x" then
            add("\0")
        elseif option == "f" or option == "d" then
            local number = check_number(argument, "pack", arguments[argument])
            add(float_bytes(number, option, mode.little))
            argument = argument + 1
        elseif option == "c" or option == "s" then
            local text = check_string(argument, "pack", arguments[argument])
            argument = argument + 1
            if size == 0 then
                size = #text
            end
            if #text < size then
                bad_argument(argument, "pack", "string too short")
            end
            add(sub(text, 1, size))
            if option == "s" then
                add("\0")
            end
        else
            position = obey(option, format, position, mode, "pack")
        end
    end
    return concat(parts)
end

-- Return the values that unpack gives, in a list, with their number.
local function unpacked(format, data, offset)
    local mode = { little = true, alignment = 1 }
    local values, count, position = {}, 0, 1

    local function check_length(size)
        if offset + size > #data then
            bad_argument(2, "unpack", "data string too short")
        end
    end

    local stop = find(format, "%z") or #format + 1
    while position < stop do
        local option = sub(format, position, position)
        local size
        size, position = size_of(option, format, position + 1)
        offset = offset + padding(offset, mode, option, size)
        check_length(size)
        local first = offset + 1
        local value
        if IS_INTEGER[option] then
            value = integer_from(data, first, size, mode.little, IS_SIGNED[option])
        elseif option == "f" or option == "d" then
            value = unpack_float(sub(data, first, offset + size), (mode.little and "<" or ">") .. option)
        elseif option == "c" then
            if size == 0 then
                size = count > 0 and tonumber(values[count])
                if not size then
                    raise("format 'c0' needs a previous size")
                end
                size = size >= 0 and floor(size) or INT_MAX -- longer than any data
                count = count - 1
                check_length(size)
            end
            value = sub(data, first, offset + size)
        elseif option == "s" then
            local zero = find(data, "%z", first)
            if not zero then
                raise("unfinished string in data")
            end
            value = sub(data, first, zero - 1)
            size = zero - offset
        elseif option ~= "x" then
            position = obey(option, format, position, mode, "unpack")
        end
        if value ~= nil then
            count = count + 1
            values[count] = value
        end
        offset = offset + size
    end
    count = count + 1
    values[count] = offset + 1
    return values, count
end

function struct.unpack(...)
    local count = select("#", ...)
    local format, data, first = ...
    format, data = check_string(1, "unpack", format, count), check_string(2, "unpack", data, count)
    first = first == nil and 1 or check_number(3, "unpack", first)
    if not (first >= 1) then
        bad_argument(3, "unpack", "offset must be 1 or greater")
    end
    local values, length = unpacked(format, data, floor(first) - 1)
    if length > 7000 then
        raise("too many results to unpack")
    end
    return unpack(values, 1, length)
end

function struct.size(...)
    local format = check_string(1, "size", (...), select("#", ...))
    local mode = { little = true, alignment = 1 }
    local total, position = 0, 1
    local stop = find(format, "%z") or #format + 1
    while position < stop do
        local option = sub(format, position, position)
        local size
        size, position = size_of(option, format, position + 1)
        total = total + padding(total, mode, option, size)
        if option == "s" then
            bad_argument(1, "size", "option 's' has no fixed size")
        elseif option == "c" and size == 0 then
            bad_argument(1, "size", "option 'c0' has no fixed size")
        elseif not find(option, "%w") then
            position = obey(option, format, position, mode, "size")
        end
        total = total + size
    end
    return total
end
