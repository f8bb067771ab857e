-- What a browser sends: 15 fields, about 700 bytes, another path and query each time.
local number = math.random(1000000)
local fields

function init(args)
  fields = " HTTP/1.1\r\n" .. table.concat({
    "Host: " .. wrk.host .. ":" .. wrk.port,
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Safari/537.36",
    "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
    "Accept-Language: en-US,en;q=0.5",
    "Accept-Encoding: gzip, deflate, br",
    "Referer: https://example.com/some/page",
    "Cookie: session=0123456789abcdef0123456789abcdef0123456789abcdef; theme=dark",
    "Upgrade-Insecure-Requests: 1",
    "Sec-Fetch-Dest: document",
    "Sec-Fetch-Mode: navigate",
    "Sec-Fetch-Site: same-origin",
    "Sec-Fetch-User: ?1",
    "Cache-Control: max-age=0",
    "DNT: 1",
    "X-Requested-With: bench",
  }, "\r\n") .. "\r\n\r\n"
end

function request()
  number = number + 1
  return "GET /shop/items/" .. number .. "?page=" .. number % 97 .. "&sort=price" .. fields
end
