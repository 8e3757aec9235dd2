#!/usr/bin/python3 -I
# The door to PAM for a verifier of type checkpassword (configs/pam.yaml):
#
#   checkpassword-pam.py SERVICE [DIRECTORY]
#
# asks PAM's service SERVICE, as configured in /etc/pam.d or in DIRECTORY, for
# authentication and for the state of the account. It needs nothing but Python
# and Linux-PAM 1.4. It runs as kpopd's user: modules that ask a daemon or a
# server, as pam_sss does, work from here; pam_unix, which wants to be root for
# any other user than its own, does not.
import ctypes
import os
import sys

RIGHT, WRONG, MISUSED, LATER = 0, 1, 2, 111

PAM_SUCCESS = 0
PAM_RHOST = 4  # an item
PAM_BUF_ERR, PAM_CONV_ERR = 5, 19
PAM_PROMPT_ECHO_OFF, PAM_PROMPT_ECHO_ON = 1, 2
PAM_SILENT, PAM_DISALLOW_NULL_AUTHTOK = 0x8000, 1
# what speaks of the user: PERM_DENIED, AUTH_ERR, CRED_INSUFFICIENT,
# USER_UNKNOWN, MAXTRIES, NEW_AUTHTOK_REQD, ACCT_EXPIRED, CRED_EXPIRED,
# AUTHTOK_EXPIRED. The rest speaks of PAM.
REFUSALS = {6, 7, 8, 10, 11, 12, 13, 16, 27}


class Message(ctypes.Structure):
    _fields_ = [("style", ctypes.c_int), ("text", ctypes.c_char_p)]


class Response(ctypes.Structure):
    _fields_ = [("text", ctypes.c_void_p), ("code", ctypes.c_int)]


Converse = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_int, ctypes.POINTER(ctypes.POINTER(Message)),
    ctypes.POINTER(ctypes.c_void_p), ctypes.c_void_p)


class Conversation(ctypes.Structure):
    _fields_ = [("converse", Converse), ("data", ctypes.c_void_p)]


libc = ctypes.CDLL(None)
libc.calloc.restype = libc.strdup.restype = ctypes.c_void_p
libc.calloc.argtypes = [ctypes.c_size_t, ctypes.c_size_t]
libc.strdup.argtypes = [ctypes.c_char_p]


def answers(login, password):
    """The function that PAM asks its questions; PAM frees what it is given."""
    def converse(count, messages, responses, _):
        block = libc.calloc(count, ctypes.sizeof(Response))
        if not block:
            return PAM_BUF_ERR
        out = ctypes.cast(block, ctypes.POINTER(Response))
        for i in range(count):
            style = messages[i].contents.style
            if style == PAM_PROMPT_ECHO_OFF:
                out[i].text = libc.strdup(password)
            elif style == PAM_PROMPT_ECHO_ON:
                out[i].text = libc.strdup(login)
        responses[0] = block
        return PAM_SUCCESS
    return Converse(converse)


def check(service, directory, login, password):
    pam = ctypes.CDLL("libpam.so.0")
    handle = ctypes.c_void_p()
    conversation = Conversation(answers(login, password), None)
    start = [service.encode(), login, ctypes.byref(conversation)]
    if directory:
        status = pam.pam_start_confdir(*start, directory.encode(), ctypes.byref(handle))
    else:
        status = pam.pam_start(*start, ctypes.byref(handle))
    if status != PAM_SUCCESS:
        print("pam_start: error", status, file=sys.stderr)
        return LATER
    address = os.environ.get("TCPREMOTEIP")
    if address:
        pam.pam_set_item(handle, PAM_RHOST, address.encode())
    flags = PAM_SILENT | PAM_DISALLOW_NULL_AUTHTOK
    status = pam.pam_authenticate(handle, flags) or pam.pam_acct_mgmt(handle, flags)
    if status != PAM_SUCCESS:
        pam.pam_strerror.restype = ctypes.c_char_p
        print(pam.pam_strerror(handle, status).decode(errors="replace"), file=sys.stderr)
    pam.pam_end(handle, status)
    if status == PAM_SUCCESS:
        return RIGHT
    return WRONG if status in REFUSALS else LATER


def main():
    if len(sys.argv) not in (2, 3):
        print("usage: checkpassword-pam.py SERVICE [DIRECTORY]", file=sys.stderr)
        return MISUSED
    with os.fdopen(3, "rb") as given:
        fields = given.read(513).split(b"\0")
    if len(fields) < 4 or not fields[0] or not fields[1]:
        print("no login and password on descriptor 3", file=sys.stderr)
        return MISUSED
    return check(sys.argv[1], sys.argv[2] if len(sys.argv) == 3 else "", fields[0], fields[1])


if __name__ == "__main__":
    try:
        status = main()
    except Exception as e:  # the text of e may quote what was read
        print("cannot ask PAM:", type(e).__name__, file=sys.stderr)
        status = LATER
    sys.exit(status)
