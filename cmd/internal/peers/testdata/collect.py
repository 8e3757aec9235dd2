"""poplib.py PORT HOW USER PASSWORD CA FILE TAKE - collect all mail with poplib.

HOW is POP3S, STLS (both with USER and PASS), APOP, OAUTHBEARER or XOAUTH2. LIST, UIDL, TOP and RETR
must agree with each other. What was got is deleted when TAKE is true.
"""
import base64
import poplib
import ssl
import sys

port, how, user, password, ca, path, take = sys.argv[1:]
poplib._MAXLINE = 1 << 20  # of its own accord it takes no line over 2048 octets
context = ssl.create_default_context(cafile=ca)
try:
    if how == "POP3S":
        pop = poplib.POP3_SSL("localhost", int(port), context=context, timeout=20)
    else:
        pop = poplib.POP3("localhost", int(port), timeout=20)
    pop.set_debuglevel(1)
    if how in ("STLS", "OAUTHBEARER", "XOAUTH2"):
        pop.stls(context)
    if how in ("OAUTHBEARER", "XOAUTH2"):
        message = {"OAUTHBEARER": f"n,a={user},\1auth=Bearer {password}\1\1",
                   "XOAUTH2": f"user={user}\1auth=Bearer {password}\1\1"}[how]
        pop._shortcmd("AUTH " + how)
        if pop._shortcmd(base64.b64encode(message.encode()).decode()).startswith(b"+ "):
            pop._shortcmd("AQ==" if how == "OAUTHBEARER" else "")
    elif how == "APOP":
        pop.apop(user, password)
    else:
        pop.user(user)
        pop.pass_(password)
except poplib.error_proto as e:
    sys.exit(f"refused: {e}")

pop.set_debuglevel(0)
count, total = pop.stat()
sizes = [int(line.split()[1]) for line in pop.list()[1]]
uids = [line.split()[1] for line in pop.uidl()[1]]
assert len(sizes) == len(uids) == len(set(uids)) == count, (count, sizes, uids)
assert sum(sizes) == total, (total, sizes)
with open(path, "wb") as out:
    for n, size in enumerate(sizes, 1):
        _, lines, octets = pop.retr(n)
        text = b"".join(line + b"\r\n" for line in lines)
        assert len(text) == size, (n, size, len(text), octets)
        head = lines[: lines.index(b"") + 1] if lines else []
        assert pop.top(n, 0)[1] == head, n
        assert pop.top(n, 99999999)[1] == lines, n
        out.write(text)
        if take == "true":
            pop.dele(n)
pop.quit()
