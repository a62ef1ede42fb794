-- A read-only S3's listings (ListObjects v1 and v2, path style) over the folders ROOT/<bucket>. See server.py.
-- A bucket is read from the disk once in the life of a worker: one sorted text of "key TAB size TAB mtime" lines and
-- the offset of each line. A page then costs a binary search for its beginning, one for each common prefix that it
-- shows, and its own lines, whatever the bucket holds.
local ffi = require 'ffi'

local TAB, NEWLINE = '\t', '\n'
local ESCAPES = { ['&'] = '&amp;', ['<'] = '&lt;', ['>'] = '&gt;', ['"'] = '&quot;', ['\r'] = '&#13;' }
local buckets = {}

local function load_bucket(root, bucket)
  local command = "cd '%s/%s' && find . -type f -printf '%%P\\t%%s\\t%%Ts\\n' | LC_ALL=C sort"
  local pipe = io.popen(command:format(root, bucket))
  local text = pipe:read('*a')
  pipe:close()
  local _, count = text:gsub(NEWLINE, '')
  local starts = ffi.new('uint32_t[?]', count + 1)
  local at = 1
  for line = 0, count - 1 do
    starts[line] = at
    at = text:find(NEWLINE, at, true) + 1
  end
  starts[count] = at
  return { text = text, starts = starts, count = count }
end

local function key_at(bucket, line)
  local start = bucket.starts[line]
  return bucket.text:sub(start, bucket.text:find(TAB, start, true) - 1)
end

-- The first line, not before `low`, whose key is not less than `key`. LuaJIT compares strings by their bytes.
local function first_not_below(bucket, key, low)
  local high = bucket.count
  while low < high do
    local middle = math.floor((low + high) / 2)
    if key_at(bucket, middle) < key then low = middle + 1 else high = middle end
  end
  return low
end

-- The least string that is greater than all that begin with `prefix`.
local function past(prefix)
  return prefix:sub(1, -2) .. string.char(prefix:byte(-1) + 1)
end

local function argument(args, name)
  local value = args[name]
  return type(value) == 'string' and value or ''
end

local function xml(text) return (text:gsub('[&<>"\r]', ESCAPES)) end

local function url(text)
  return (text:gsub('[^%w/._~-]', function(byte) return ('%%%02X'):format(byte:byte()) end))
end

local function listing(bucket, args)
  local prefix, delimiter = argument(args, 'prefix'), argument(args, 'delimiter')
  local v2 = args['list-type'] == '2'
  local after = v2 and (args['continuation-token'] or args['start-after']) or args.marker
  after = type(after) == 'string' and after or ''
  local most = math.min(tonumber(args['max-keys']) or 1000, 1000)
  local shown = args['encoding-type'] == 'url' and url or xml

  local line = first_not_below(bucket, prefix, 0)
  if after ~= '' then
    -- After a common prefix comes what is not below it, after a key the next key.
    local common = delimiter ~= '' and after:sub(-#delimiter) == delimiter
    line = first_not_below(bucket, common and past(after) or after .. '\0', line)
  end
  local contents, folders, last = {}, {}, ''
  while line < bucket.count do
    local start, stop = bucket.starts[line], bucket.starts[line + 1] - 2
    local tab = bucket.text:find(TAB, start, true)
    local key = bucket.text:sub(start, tab - 1)
    if key:sub(1, #prefix) ~= prefix or #contents + #folders >= most then break end
    local _, finish
    if delimiter ~= '' then _, finish = key:find(delimiter, #prefix + 1, true) end
    if finish then
      last = key:sub(1, finish)
      folders[#folders + 1] = '<CommonPrefixes><Prefix>' .. shown(last) .. '</Prefix></CommonPrefixes>'
      line = first_not_below(bucket, past(last), line)
    else
      last = key
      local size, mtime = bucket.text:sub(tab + 1, stop):match('(%d+)\t(%d+)')
      -- The ETag is made as nginx makes that of a static file.
      contents[#contents + 1] = '<Contents><Key>' .. shown(key) .. '</Key><LastModified>'
        .. os.date('!%Y-%m-%dT%H:%M:%S.000Z', tonumber(mtime)) .. '</LastModified><ETag>&quot;'
        .. ('%x-%x'):format(mtime, size) .. '&quot;</ETag><Size>' .. size
        .. '</Size><StorageClass>STANDARD</StorageClass></Contents>'
      line = line + 1
    end
  end
  local more = line < bucket.count and key_at(bucket, line):sub(1, #prefix) == prefix
  local next_page = ''
  if more then
    local name = v2 and 'NextContinuationToken' or 'NextMarker'
    next_page = ('<%s>%s</%s>'):format(name, (v2 and xml or shown)(last), name)
  end
  return {
    '<Prefix>', shown(prefix), '</Prefix><MaxKeys>', most, '</MaxKeys><KeyCount>', #contents + #folders,
    '</KeyCount>', shown == url and '<EncodingType>url</EncodingType>' or '', '<IsTruncated>', tostring(more),
    '</IsTruncated>', next_page, contents, folders,
  }
end

local S3 = {}

-- Answers a GET of a bucket.
function S3.answer(root)
  local name = ngx.var.uri:match('^/([^/]+)')
  local args = ngx.req.get_uri_args()
  ngx.header['Content-Type'] = 'application/xml'
  local xmlns = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
  ngx.print('<?xml version="1.0" encoding="UTF-8"?>')
  for question, answer in pairs({ location = 'LocationConstraint', versioning = 'VersioningConfiguration' }) do
    if args[question] ~= nil then return ngx.print('<', answer, ' ', xmlns, '/>') end
  end
  buckets[name] = buckets[name] or load_bucket(root, name)
  ngx.print('<ListBucketResult ', xmlns, '><Name>', xml(name), '</Name>', listing(buckets[name], args),
    '</ListBucketResult>')
end

return S3
