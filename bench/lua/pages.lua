
-- After browser.lua: another Referer each time as well, as from page to page.
local before, after

function request()
  if not before then
    before, after = fields:match("^(.*/some/page)(.*)$")
  end
  number = number + 1
  return "GET /differs/" .. number .. "?page=" .. number % 97 .. before .. number .. after
end
