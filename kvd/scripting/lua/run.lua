-- Closing the sandbox, compiling scripts and running them.
--
-- What a script returns is handed to the daemon as plain values. A table is walked here, where memory and
-- time are limited, and sent in pieces through `host.emit`:
--
--   a string, number or true stands for itself; nil, kind, argument introduces everything else.

local host, kit = ...

local assert, error, next, pairs, rawget, setfenv, setmetatable = assert, error, next, pairs, rawget, setfenv, setmetatable
local select, tostring, type, unpack, xpcall = select, tostring, type, unpack, xpcall
local dump, loadstring = string.dump, loadstring
local emit, keep_frame, limit_memory = host.emit, host.keep_frame, host.limit_memory
local globals, behind, received = kit.globals, kit.behind, kit.received
local script_place, script_prefix, with_place = kit.script_place, kit.script_prefix, kit.with_place

-- Deeper replies could not be read by any client, and recursion over them has to end somewhere.
local NESTING_MAX = 128
local TOO_DEEP = "ERR reached lua stack limit"
-- Values that go over in one call.
local PIECE = 48
-- One table may hold the same long string, or the same table, many times, so the copies are counted.
local REPLY_BYTES_MAX = host.memory_bytes_max
local VALUE_BYTES = 32 -- about what a value takes in the daemon
local TOO_LARGE = "the script's reply is larger than a script's memory may be"

-- --- the environment

local content = {} -- the global names, with readonly libraries
for name, value in pairs(globals) do
    content[name] = type(value) == "table" and kit.readonly(value) or value
end
kit.string_metatable = kit.readonly({ __index = content.string })

local environment = kit.readonly(content)
content._G = environment
kit.environment = environment
setmetatable(content, {
    __index = function(_, name)
        error("Script attempted to access nonexistent global variable '" .. tostring(name) .. "'", 2)
    end,
})

-- --- errors

-- Return the error of a script with its place: the innermost line that is not ours.
local function explain(problem)
    local text, counted
    if type(problem) == "table" then
        text, counted = rawget(problem, "err"), rawget(problem, "ignore_error_stats_update")
        if type(text) ~= "string" then
            text = "ERR the error object is a table without an err field"
        end
    else
        text = "ERR " .. tostring(with_place(problem, script_prefix()))
    end
    local place = script_place()
    return {
        text = text,
        counted = counted and true or false,
        source = place and place.source,
        line = place and place.currentline,
    }
end

-- --- replies

local piece, piece_length, reply_bytes = {}, 0, 0

local function flush()
    emit(unpack(piece, 1, piece_length))
    piece_length = 0
end

local function put(value)
    if piece_length == PIECE then
        flush()
    end
    reply_bytes = reply_bytes + VALUE_BYTES
    if type(value) == "string" then
        reply_bytes = reply_bytes + #value
    end
    if reply_bytes > REPLY_BYTES_MAX then
        error(TOO_LARGE, 0)
    end
    piece_length = piece_length + 1
    piece[piece_length] = value
end

local function introduce(kind, argument)
    if piece_length > PIECE - 3 then
        flush()
    end
    put(nil)
    put(kind)
    put(argument)
end

local send

local function send_pairs(kind, value, depth)
    local count = 0
    for _ in next, value do
        count = count + 1
    end
    introduce(kind, count)
    for key, item in next, value do
        send(key, depth + 1)
        if kind == "map" then
            send(item, depth + 1)
        end
    end
end

local function send_list(value, depth)
    local count = 0
    while rawget(value, count + 1) ~= nil do
        count = count + 1
    end
    introduce("list", count)
    for index = 1, count do
        send(rawget(value, index), depth + 1)
    end
end

-- Source: Redis 7 scripting: the one field that makes a table more than a list, in the order of asking.
local FIELDS = {
    { "err", "string", "error" },
    { "ok", "string", "status" },
    { "double", "number", "double" },
    { "map", "table", "map" },
    { "set", "table", "set" },
    { "big_number", "string", "number" },
}

local function send_table(value, depth)
    for index = 1, #FIELDS do
        local field = FIELDS[index]
        local found = rawget(value, field[1])
        if type(found) == field[2] then
            if field[2] == "table" then
                return send_pairs(field[3], behind[found] or found, depth)
            end
            if found == 0 then
                found = tostring(found) -- as a number it would lose its sign on the way
            end
            return introduce(field[3], found)
        end
    end
    local verbatim = rawget(value, "verbatim_string")
    if type(verbatim) == "table" then
        local text, format = rawget(verbatim, "string"), rawget(verbatim, "format")
        if type(text) == "string" and type(format) == "string" then
            introduce("verbatim", format)
            return put(text)
        end
    end
    return send_list(value, depth)
end

function send(value, depth)
    local kind = type(value)
    if kind == "string" or kind == "number" then
        put(value)
    elseif kind == "boolean" then
        introduce("boolean", value)
    elseif kind ~= "table" then
        introduce("null")
    elseif depth > NESTING_MAX then
        introduce("error", TOO_DEEP)
    else
        send_table(behind[value] or value, depth)
    end
end

-- --- scripts

local scripts = {}
local run = {}

-- Compile a script under a name. Returns nil, or what is wrong with it.
function run.install(name, source)
    limit_memory()
    local compiled, message = kit.compile(source, "@user_script")
    if compiled then
        compiled = assert(loadstring(received(keep_frame(dump(compiled))), "@user_script"))
        setfenv(compiled, environment)
    end
    scripts[name] = compiled
    return message
end

function run.remove(name)
    scripts[name] = nil
end

local function finish(ok, value)
    content.KEYS, content.ARGV = nil, nil
    if not ok then
        if type(value) == "table" then
            return "failed", value.text, value.counted, value.source, value.line
        end
        return "failed", "ERR " .. tostring(value), false
    end
    if type(value) ~= "table" then
        if type(value) == "function" or type(value) == "userdata" or type(value) == "thread" then
            return nil
        end
        return value
    end
    local refusal = rawget(value, "err")
    if type(refusal) == "string" then
        return "refused", refusal, rawget(value, "ignore_error_stats_update") and true or false
    end
    piece, piece_length, reply_bytes = {}, 0, 0
    send(value, 0)
    flush()
    return "sent", true
end

local function start(name, keys, arguments)
    limit_memory()
    kit.reset_coroutines()
    kit.reset_cjson()
    content.KEYS, content.ARGV = keys, arguments
    return finish(xpcall(scripts[name], explain))
end

-- Run a script with its keys and arguments in lists. Returns a plain value, or a word and what belongs to it.
run.start = start

-- The same with the keys and arguments themselves: cheaper while they are few.
function run.start_with(name, key_count, ...)
    local keys, arguments = {}, { ... }
    if key_count > 0 then
        local count = select("#", ...)
        for index = 1, key_count do
            keys[index] = arguments[index]
        end
        for index = 1, count do
            arguments[index] = arguments[index + key_count]
        end
    end
    return start(name, keys, arguments)
end

kit.watch()

-- Nothing of the original global table is left, whoever may get hold of it.
local original = _G
for name in pairs(original) do
    original[name] = nil
end

return run.install, run.remove, run.start, run.start_with, kit.reset_watch
