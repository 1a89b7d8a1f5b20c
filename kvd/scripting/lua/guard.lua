-- Guards shared by everything that scripts can reach: readonly tables, argument errors, the time limit.
--
-- Every chunk of the sandbox is called as chunk(host, kit). `host` holds the daemon's functions; they are
-- Python objects, so they must stay in upvalues and never reach a script. `kit` is what the chunks give
-- each other. Both are forgotten once the sandbox is closed.
--
-- Lua 5.1 has no readonly tables. A library is shown to scripts as an empty table that looks its names up
-- in the hidden one; the functions that could write past the metatable (rawset, table.insert ...) are
-- replaced by ones that know these tables.

local host, kit = ...

local type, error, setmetatable, tonumber = type, error, setmetatable, tonumber
local find, gsub = string.find, string.gsub
local getinfo, sethook, clock = debug.getinfo, debug.sethook, os.clock
local look_at_clock, limit_memory = host.look, host.limit_memory

local ERROR, KILLED_REPLY = host.ERROR, host.KILLED
-- How far up an error looks for the script. Lua counts from the top each time, so more would be slow; the
-- deepest of ours is JSON, with two levels for each of its own.
local LEVELS_MAX = 2500
local READONLY = "Attempt to modify a readonly table"

-- Instructions between two looks at the CPU clock, and CPU seconds between two looks of the daemon at the
-- wall clock. A library function may run for milliseconds in one instruction, so the first must be small.
local HOOK_COUNT = 1000
local LOOK_SECONDS = 0.005

local behind = {} -- readonly table -> the hidden table behind it
kit.behind = behind

local function refuse()
    error(READONLY, 2)
end

-- Return what scripts see of the table `content`.
function kit.readonly(content)
    local shown = setmetatable({}, { __index = content, __newindex = refuse })
    behind[shown] = content
    return shown
end

-- Raise if a script is about to write to a readonly table by other means than an assignment.
function kit.check_writable(value)
    if behind[value] then
        error(READONLY, 0)
    end
end

local function is_ours(info)
    return info.what == "C" or info.what == "tail" or find(info.source, "=kvd.", 1, true) == 1
end

-- Return what Lua knows of the innermost line of the running script, or nil.
function kit.script_place()
    for level = 2, LEVELS_MAX do
        local info = getinfo(level, "Sl")
        if not info or not is_ours(info) then
            return info
        end
    end
end

local script_place = kit.script_place

-- Return that line as error messages begin, "user_script:1: ", or "".
function kit.script_prefix()
    local info = script_place()
    return info and info.short_src .. ":" .. info.currentline .. ": " or ""
end

local script_prefix = kit.script_prefix

-- Raise an error with the place where the script called us.
function kit.raise(text)
    error(script_prefix() .. text, 0)
end

local raise = kit.raise

-- Raise what the C functions of Lua raise for a wrong argument.
function kit.bad_argument(index, name, problem)
    raise("bad argument #" .. index .. " to '" .. name .. "' (" .. problem .. ")")
end

local bad_argument = kit.bad_argument

-- `count` is how many arguments there are, where the difference between none and nil is to be told.
local function wrong_type(kind, index, name, value, count)
    local got = count and index > count and "no value" or type(value)
    bad_argument(index, name, kind .. " expected, got " .. got)
end

function kit.check(kind, index, name, value, count)
    if type(value) ~= kind then
        wrong_type(kind, index, name, value, count)
    end
    return value
end

-- As the C functions do it: a string that looks like a number is one.
function kit.check_number(index, name, value, count)
    local number = (type(value) == "number" or type(value) == "string") and tonumber(value)
    return number or wrong_type("number", index, name, value, count)
end

-- And a number is a string.
function kit.check_string(index, name, value, count)
    if type(value) == "string" then
        return value
    end
    return type(value) == "number" and value .. "" or wrong_type("string", index, name, value, count)
end

-- Raise an error that already has its code word, without a place: it is the reply if nobody catches it.
function kit.fail(text)
    error({ err = text }, 0)
end

-- Return a plain reply of the daemon, with the memory limit in force again if it had to be lifted for it.
function kit.received(reply, kind, unlimited)
    if unlimited then
        limit_memory()
    end
    if kind == ERROR then
        error("not enough memory", 0)
    elseif kind == KILLED_REPLY then
        kit.look()
    end
    return reply
end

-- Put `place` ("" for none) where an error has a place in a chunk of ours, which says nothing to a script's
-- author.
function kit.with_place(problem, place)
    if type(problem) == "string" then
        return (gsub(problem, "^kvd%.%w+:%d+: ", place, 1))
    end
    return problem
end

-- The time limit. Once `killed` is set nothing of the script runs any more: the hook raises at its next turn, and
-- whatever could catch an error asks `check_killed`.

local KILLED = "Script killed by user with SCRIPT KILL..."
local killed = false
local next_look = 0

function kit.check_killed()
    if killed then
        error(KILLED, 0)
    end
end

function kit.is_killed()
    return killed
end

-- Let the daemon look at the wall clock, and end the script if someone has asked for that.
function kit.look()
    if killed or look_at_clock() then
        killed = true
        error(KILLED, 0)
    end
    next_look = clock() + LOOK_SECONDS
end

local look = kit.look

local function hook()
    if killed or clock() >= next_look then
        look()
    end
end

-- Hooks are kept by coroutine. Without one for `thread` it is the running one.
function kit.watch(thread)
    if thread then
        sethook(thread, hook, "", HOOK_COUNT)
    else
        sethook(hook, "", HOOK_COUNT)
    end
end

-- Let scripts run again after one was killed.
function kit.reset_watch()
    killed = false
end
