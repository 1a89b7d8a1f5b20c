-- The `redis` library: commands, replies, the log.
--
-- `host.command(...)` runs a command and returns its reply as up to three values:
--
--   reply            a plain value
--   text, kind       a status or an error
--   reply, kind, true    the same, and the memory limit is off: see memory.py
--
-- Only strings are passed to the daemon. A table or a function would be given a reference, for which the
-- binding allocates where it cannot handle a failure.

local host, kit = ...

local error, select, tonumber, type, unpack = error, select, tonumber, type, unpack
local concat, find, format, match, sub = table.concat, string.find, string.format, string.match, string.sub
local add_arguments, command, limit_memory, write_log = host.add_arguments, host.command, host.limit_memory, host.log
local sha1, set_protocol, may_run = host.sha1, host.set_protocol, host.may_run
local fail, look, received = kit.fail, kit.look, kit.received

local STATUS, ERROR, KILLED = host.STATUS, host.ERROR, host.KILLED
-- Arguments that go over in one call; what the binding does for each grows with their number.
local ARGUMENTS_AT_ONCE = 32
-- The strings are copied, so a script may not multiply what it has by naming it often.
local ARGUMENT_BYTES_MAX = host.memory_bytes_max

local WRONG_ARGUMENT = "ERR Lua redis lib command arguments must be strings or integers"
local NO_ARGUMENT = "ERR Please specify at least one argument for this redis lib call"
local TOO_LARGE = "ERR the arguments of a command are larger than a script's memory may be"

-- Return (a problem), or nil and the arguments as a list of strings.
local function as_strings(count, ...)
    local list, total = { ... }, 0
    for index = 1, count do
        local argument = list[index]
        if type(argument) == "number" then
            argument = format("%.17g", argument)
            list[index] = argument
        elseif type(argument) ~= "string" then
            return WRONG_ARGUMENT
        end
        total = total + #argument
    end
    if total > ARGUMENT_BYTES_MAX then
        return TOO_LARGE
    end
    return nil, list
end

-- Call act(...) with a list of strings; a long one goes over in pieces first, and act() takes these.
local function hand_over(act, list, count)
    if count <= ARGUMENTS_AT_ONCE then
        return act(unpack(list, 1, count))
    end
    for first = 1, count, ARGUMENTS_AT_ONCE do
        local last = first + ARGUMENTS_AT_ONCE - 1
        add_arguments(first, unpack(list, first, last < count and last or count))
    end
    return act()
end

-- Call act(...) with all arguments as strings. Anything wrong with them is returned as an error reply.
local function with_strings(act, ...)
    local count = select("#", ...)
    if count == 0 then
        return NO_ARGUMENT, ERROR
    end
    if count <= 8 then -- the common case, without a table
        local total, only_strings = 0, true
        for index = 1, count do
            local argument = select(index, ...)
            if type(argument) ~= "string" then
                only_strings = false
                break
            end
            total = total + #argument
        end
        if only_strings and total <= ARGUMENT_BYTES_MAX then
            return act(...)
        end
    end
    local problem, list = as_strings(count, ...)
    if problem then
        return problem, ERROR
    end
    return hand_over(act, list, count)
end

-- Return a reply as scripts see it; an error as (table, true).
local function shown(reply, kind, unlimited)
    if kind == nil then
        return reply
    end
    if unlimited then
        limit_memory()
    end
    if kind == STATUS then
        return { ok = reply }
    elseif kind == ERROR then
        return { err = reply, ignore_error_stats_update = true }, true
    elseif kind == KILLED then
        look() -- raises what cannot be caught
    end
    return reply
end

local function raise_if_error(reply, is_error)
    if is_error then
        error(reply, 0)
    end
    return reply
end

local redis = {}
kit.globals.redis = redis

function redis.call(...)
    return raise_if_error(shown(with_strings(command, ...)))
end

function redis.pcall(...)
    return (shown(with_strings(command, ...)))
end

-- --- replies

function redis.error_reply(...)
    local text = ...
    if select("#", ...) ~= 1 or type(text) ~= "string" then
        return { err = "ERR wrong number or type of arguments" }
    end
    text = match(text, "^%-?(.*)$")
    if not find(text, " ", 1, true) then
        text = "ERR " .. text
    end
    return { err = text }
end

function redis.status_reply(...)
    local text = ...
    if select("#", ...) ~= 1 or type(text) ~= "string" then
        return { err = "ERR wrong number or type of arguments" }
    end
    return { ok = text }
end

function redis.setresp(...)
    if select("#", ...) ~= 1 then
        fail("ERR redis.setresp() requires one argument.")
    end
    local version = tonumber((...))
    if version ~= 2 and version ~= 3 then
        fail("ERR RESP version must be 2 or 3.")
    end
    set_protocol(version)
end

-- --- questions

function redis.sha1hex(...)
    local text = ...
    if select("#", ...) ~= 1 then
        fail("ERR wrong number of arguments")
    end
    if type(text) == "number" then
        text = text .. ""
    end
    return received(sha1(type(text) == "string" and text or ""))
end

function redis.acl_check_cmd(...)
    local answer, kind = with_strings(may_run, ...)
    if kind == ERROR then
        fail(answer)
    end
    return answer
end

-- --- the log

redis.LOG_DEBUG, redis.LOG_VERBOSE, redis.LOG_NOTICE, redis.LOG_WARNING = 0, 1, 2, 3

-- What one call may write; a line longer than this helps nobody.
local LOGGED_BYTES_MAX = 1024

function redis.log(...)
    local count = select("#", ...)
    if count < 2 then
        fail("ERR redis.log() requires two arguments or more.")
    end
    local parts = { ... }
    local level = tonumber(parts[1])
    if not level then
        fail("ERR First argument must be a number (log level).")
    elseif not (level >= redis.LOG_DEBUG and level <= redis.LOG_WARNING) then
        fail("ERR Invalid debug level.")
    end
    local words = {}
    for index = 2, count do
        local part = parts[index]
        if type(part) == "string" or type(part) == "number" then
            words[#words + 1] = sub(part, 1, LOGGED_BYTES_MAX)
        end
    end
    write_log(level, sub(concat(words, " "), 1, LOGGED_BYTES_MAX))
end

-- --- replication: effects are what is replicated, always, so there is nothing to choose

redis.REPL_NONE, redis.REPL_AOF, redis.REPL_SLAVE, redis.REPL_REPLICA, redis.REPL_ALL = 0, 1, 2, 2, 3

function redis.set_repl(...)
    local flags = tonumber((...))
    if select("#", ...) ~= 1 then
        fail("ERR redis.set_repl() requires two arguments.")
    elseif not flags or flags < redis.REPL_NONE or flags > redis.REPL_ALL then
        fail("ERR Invalid replication flags. Use REPL_AOF, REPL_REPLICA, REPL_ALL or REPL_NONE.")
    end
end

function redis.replicate_commands()
    return true
end

-- --- debugging, which is not offered

function redis.breakpoint()
    return false
end

function redis.debug() end

redis.REDIS_VERSION, redis.REDIS_VERSION_NUM = host.version, host.version_number
