-- The basic functions, coroutines, string and table libraries of Lua 5.1, as scripts get them.
--
-- What is missing on purpose: io, package, debug, print, dofile, loadfile, require, module, getfenv, setfenv
-- and newproxy. What is replaced, and why:
--
--   * next pairs rawget rawset getmetatable setmetatable table.insert: see readonly tables in guard.lua;
--   * pcall xpcall coroutine.*: a script that is killed must not catch it; coroutines need a hook of their own;
--   * load loadstring: no bytecode, which could do anything to the process; no functions whose parameters
--     would overflow the stack (`host.examine`); no collection while the parser holds the chunk's name;
--   * string.find match gmatch gsub: Lua 5.1 matches `?` `*` `+` `-` recursively on the C stack;
--   * string.rep unpack table.insert: arguments that would keep C loops busy for hours or overflow an int;
--   * collectgarbage: the collector may be asked to work, not to stop.

local host, kit = ...

local assert, error, getmetatable, ipairs, loadstring, next = assert, error, getmetatable, ipairs, loadstring, next
local pairs, pcall, rawequal, rawget, rawset, select = pairs, pcall, rawequal, rawget, rawset, select
local setfenv, setmetatable, tonumber, tostring, type = setfenv, setmetatable, tonumber, tostring, type
local unpack, xpcall, gcinfo, collectgarbage = unpack, xpcall, gcinfo, collectgarbage
local sethook = debug.sethook
local byte, find, gmatch, gsub, match, rep = string.byte, string.find, string.gmatch, string.gsub, string.match, string.rep
local concat, insert = table.concat, table.insert
local create, resume, status = coroutine.create, coroutine.resume, coroutine.status
local examine = host.examine

local behind, check, check_number, check_string = kit.behind, kit.check, kit.check_number, kit.check_string
local bad_argument, check_killed, check_writable = kit.bad_argument, kit.check_killed, kit.check_writable
local raise = kit.raise
local is_killed, look, watch, with_place, received = kit.is_killed, kit.look, kit.watch, kit.with_place, kit.received

-- The deepest nesting of coroutines. Each has a C stack depth of up to 200 calls of its own, all on the one
-- stack of the process.
local NESTED_COROUTINES_MAX = 16
-- Coroutines made between two looks at the clock: many short ones may never reach the hook's count.
local COROUTINES_PER_LOOK = 256
-- The longest pattern: each of its items may take some 200 bytes of the C stack.
local PATTERN_BYTES_MAX = 8192
-- What `unpack` may return: LUAI_MAXCSTACK, which C functions may have on the stack.
local UNPACKED_MAX = 7999
local INT_MAX = 2147483647

local globals = {} -- what a script's global names are looked up in
kit.globals = globals

-- --- tables

function globals.next(value, key)
    check("table", 1, "next", value)
    return next(behind[value] or value, key)
end

local shown_next = globals.next

function globals.pairs(value)
    check("table", 1, "pairs", value)
    if behind[value] then
        return shown_next, value, nil
    end
    return next, value, nil
end

function globals.rawget(value, key)
    check("table", 1, "rawget", value)
    return rawget(behind[value] or value, key)
end

function globals.rawset(value, key, content)
    check("table", 1, "rawset", value)
    check_writable(value)
    return rawset(value, key, content)
end

function globals.getmetatable(value)
    if type(value) == "string" then
        return kit.string_metatable
    end
    if behind[value] then
        return nil
    end
    return getmetatable(value)
end

function globals.setmetatable(value, metatable)
    check("table", 1, "setmetatable", value)
    if metatable ~= nil and type(metatable) ~= "table" then
        bad_argument(2, "setmetatable", "nil or table expected")
    end
    check_writable(value)
    return setmetatable(value, metatable)
end

function globals.unpack(list, first, last)
    check("table", 1, "unpack", list)
    first = first == nil and 1 or check_number(2, "unpack", first)
    last = last == nil and #list or check_number(3, "unpack", last)
    -- A NaN fails every comparison, so these are written to be true for good values.
    if not (first >= -INT_MAX and last <= INT_MAX and last - first < UNPACKED_MAX) then
        raise("too many results to unpack")
    end
    if first > last then
        return
    end
    if first == 1 and last == #list then
        return unpack(list) -- two arguments less are room for two results more
    end
    return unpack(list, first, last)
end

-- --- errors

local function settle(ok, ...)
    if ok then
        return true, ...
    end
    check_killed()
    local problem = ...
    -- Source: Redis 7, where pcall shows the error tables of redis.call as their text.
    local text = type(problem) == "table" and rawget(problem, "err")
    if type(text) == "string" then
        return false, text
    end
    return false, with_place(problem, "")
end

function globals.pcall(...)
    if select("#", ...) == 0 then
        bad_argument(1, "pcall", "value expected")
    end
    return settle(pcall(...))
end

local function settle_handled(ok, ...)
    if not ok then
        check_killed()
    end
    return ok, ...
end

function globals.xpcall(action, handler)
    return settle_handled(xpcall(action, function(problem)
        -- A killed script raises inside the hook, where no further hook could end the handler.
        if is_killed() then
            return problem
        end
        return handler(with_place(problem, kit.script_prefix()))
    end))
end

-- --- source text

-- Compile text for scripts. Returns the function, or nil and a message.
function kit.compile(source, name)
    if byte(source) == 27 then
        source = " " .. source -- so the parser takes it for text, and refuses it
    end
    local problem = find(source, "...", 1, true) and received(examine(source))
    if problem then
        return nil, problem
    end
    local compiled, message = loadstring(source, (gsub(name, "%z.*", "")))
    if compiled then
        setfenv(compiled, kit.environment)
    end
    return compiled, message
end

local compile = kit.compile

function globals.loadstring(source, name)
    source = check_string(1, "loadstring", source)
    return compile(source, name == nil and source or check_string(2, "loadstring", name))
end

function globals.load(reader, name)
    check("function", 1, "load", reader)
    local pieces, count = {}, 0
    while true do
        local piece = reader()
        if piece == nil or piece == "" then
            break
        end
        if type(piece) ~= "string" and type(piece) ~= "number" then
            return nil, "reader function must return a string"
        end
        count = count + 1
        pieces[count] = piece
    end
    return compile(concat(pieces), name == nil and "=(load)" or check_string(2, "load", name))
end

-- --- the collector

-- Once begun, a collection goes through to its end. In small steps, one with each allocation, hundreds of large texts
-- come into being before it ends, more than the memory limit has room for. The sandbox itself takes 0.1 ms, and all that a
-- script may keep 0.2 s at worst, of its own time.
collectgarbage("setstepmul", 0)

function globals.collectgarbage(option, argument)
    look()
    if option == nil or option == "collect" then
        return collectgarbage("collect")
    elseif option == "count" then
        return collectgarbage("count")
    elseif option == "step" then
        return collectgarbage("step", check_number(2, "collectgarbage", argument or 0))
    elseif option == "stop" or option == "restart" or option == "setpause" or option == "setstepmul" then
        return 0
    end
    bad_argument(1, "collectgarbage", "invalid option '" .. tostring(option) .. "'")
end

-- --- coroutines

local nested = 0
local made = 0

function kit.reset_coroutines()
    nested = 0
end

local function start(action)
    made = made + 1
    if made >= COROUTINES_PER_LOOK then
        made = 0
        look()
    end
    local thread = create(action)
    watch(thread)
    return thread
end

local function leave(thread, ok, ...)
    nested = nested - 1
    check_killed()
    if status(thread) == "dead" then
        sethook(thread) -- forgets the table entry that keeps its hook
    end
    return ok, ...
end

local function go_on(thread, ...)
    if nested >= NESTED_COROUTINES_MAX then
        return false, "C stack overflow"
    end
    nested = nested + 1
    return leave(thread, resume(thread, ...))
end

local function hand_on(ok, ...)
    if ok then
        return ...
    end
    error(with_place((...), ""), 3)
end

local function check_coroutine(action, name)
    if type(action) ~= "function" then
        bad_argument(1, name, "Lua function expected")
    end
end

globals.coroutine = {
    create = function(action)
        check_coroutine(action, "create")
        return start(action)
    end,
    resume = function(thread, ...)
        if type(thread) ~= "thread" then
            bad_argument(1, "resume", "coroutine expected")
        end
        return go_on(thread, ...)
    end,
    wrap = function(action)
        check_coroutine(action, "wrap")
        local thread = start(action)
        return function(...)
            return hand_on(go_on(thread, ...))
        end
    end,
    running = coroutine.running,
    status = status,
    yield = coroutine.yield,
}

-- --- strings

local function check_pattern(pattern)
    if #pattern > PATTERN_BYTES_MAX then
        raise("pattern longer than " .. PATTERN_BYTES_MAX .. " bytes")
    end
end

local function string_library()
    local library = {}
    for name, action in pairs(string) do
        library[name] = action
    end

    function library.find(subject, pattern, first, plain)
        subject, pattern = check_string(1, "find", subject), check_string(2, "find", pattern)
        if not plain then
            check_pattern(pattern)
        end
        return find(subject, pattern, first, plain)
    end

    function library.match(subject, pattern, first)
        subject, pattern = check_string(1, "match", subject), check_string(2, "match", pattern)
        check_pattern(pattern)
        return match(subject, pattern, first)
    end

    function library.gmatch(subject, pattern)
        subject, pattern = check_string(1, "gmatch", subject), check_string(2, "gmatch", pattern)
        check_pattern(pattern)
        return gmatch(subject, pattern)
    end

    library.gfind = library.gmatch

    function library.gsub(subject, pattern, replacement, limit)
        subject, pattern = check_string(1, "gsub", subject), check_string(2, "gsub", pattern)
        check_pattern(pattern)
        return gsub(subject, pattern, replacement, limit)
    end

    function library.rep(text, count)
        text, count = check_string(1, "rep", text), check_number(2, "rep", count)
        return text == "" and "" or rep(text, count)
    end

    return library
end

-- --- tables, continued

local function table_library()
    local library = {}
    for name, action in pairs(table) do
        library[name] = action
    end

    function library.insert(list, ...)
        check("table", 1, "insert", list)
        check_writable(list)
        if select("#", ...) == 2 then
            -- The C function moves everything above the position, one by one, as an int.
            local position = check_number(2, "insert", (...))
            if not (position >= 0 and position <= INT_MAX) then
                bad_argument(2, "insert", "position out of bounds")
            end
        end
        return insert(list, ...)
    end

    return library
end

-- --- what is left as it is

globals.assert, globals.error, globals.gcinfo, globals.ipairs = assert, error, gcinfo, ipairs
globals.rawequal, globals.select, globals.tonumber, globals.tostring, globals.type = rawequal, select, tonumber, tostring, type
globals._VERSION = _VERSION

local function copy(library)
    local copied = {}
    for name, content in pairs(library) do
        copied[name] = content
    end
    return copied
end

globals.string, globals.table, globals.math = string_library(), table_library(), copy(math)
globals.os = { clock = os.clock }

-- All strings look their methods up in the guarded library; its metatable can only be seen, not changed.
getmetatable("").__index = globals.string
