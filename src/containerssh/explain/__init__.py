"""``config explain``: what a login would get and why, told by the code that logs people in; nothing is started."""
