-- math.random and math.randomseed with the generator that Redis gives scripts: drand48's, from a fixed seed.
--
-- The sequence goes on from script to script, and begins anew with a new Lua state. It is the same on every
-- machine, and no secret.
-- Source: Redis 7 redisLrand48; POSIX drand48 for the constants.

local host, kit = ...

local floor, select = math.floor, select
local check_number, bad_argument = kit.check_number, kit.bad_argument

local MULTIPLIER_HIGH, MULTIPLIER_LOW = 0x5DE, 0xECE66D -- 0x5DEECE66D in 24-bit halves
local INCREMENT = 0xB
local HALF = 16777216 -- 2^24
local SEED_LOW = 0x330E
local GREATEST = 2147483647

-- The 48 bits of state in halves of 24, so that no product needs more than the 53 bits of a double.
local high, low

local function seed(number)
    local state = number % 4294967296 * 65536 + SEED_LOW
    high, low = floor(state / HALF), state % HALF
end

local function next_31_bits()
    local product = low * MULTIPLIER_LOW + INCREMENT
    local carry = floor(product / HALF)
    high = (low * MULTIPLIER_HIGH + high * MULTIPLIER_LOW + carry) % HALF
    low = product % HALF
    return high * 128 + floor(low / 131072) -- the upper 31 of 48
end

local library = kit.globals.math

function library.random(...)
    local count = select("#", ...)
    local fraction = next_31_bits() % GREATEST / GREATEST
    if count == 0 then
        return fraction
    elseif count == 1 then
        local upper = floor(check_number(1, "random", (...)))
        if not (upper >= 1) then
            bad_argument(1, "random", "interval is empty")
        end
        return floor(fraction * upper) + 1
    elseif count == 2 then
        local lower, upper = ...
        lower, upper = floor(check_number(1, "random", lower)), floor(check_number(2, "random", upper))
        if not (lower <= upper) then
            bad_argument(2, "random", "interval is empty")
        end
        return floor(fraction * (upper - lower + 1)) + lower
    end
    kit.raise("wrong number of arguments")
end

function library.randomseed(number)
    seed(floor(check_number(1, "randomseed", number)))
end

seed(0x1234ABCD)
