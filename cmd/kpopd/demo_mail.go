package main

import (
	"encoding/base64"
	"fmt"
	"strings"
)

// demoMail is mail as people get it: each message has something that a server
// or a client has been seen to get wrong.
func demoMail() [][]byte {
	messages := []string{
		head("Welcome", "") + "This is a demonstration of kpopd.\n\nThe next messages each have their own ways.\n",
		head("Lines that begin with dots", "") + ".\n..\n...\n. \n.hidden\nLast but one\n.\n",
		head("Long lines", "") + strings.Repeat("x", 998) + "\n" + strings.Repeat("0123456789", 900) + "\nshort\n",
		head("=?utf-8?q?Gr=C3=BC=C3=9Fe?=", "Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: 8bit\n") +
			"Grüße aus Köln, привет из Москвы, 東京から\n",
		head("Latin 1, said by nobody", "") + "Fa\xe7ade, na\xefve, \xbfqu\xe9 tal?\n",
		attachment(),
		"From: 顧客 <顧客@例え.テスト>\nTo: Zoë <zoë@demo.test>\nSubject: Адрес и тема не ASCII\nDate: Mon, 05 Oct 2026 09:00:00 +0000\n\nRFC 6532\n",
		strings.ReplaceAll(head("Line ends of the wire", "")+"Stored with CR LF.\n.\n", "\n", "\r\n"),
		head("No last line end", "") + "The end comes without warning",
		head("Odd octets", "") + "a CR\ralone, a NUL\x00, a bell\x07, an ESC\x1b[31m, a CR at the end\r",
		head("Nothing to read", ""),
		list(),
		head("A megabyte of report", "") + strings.Repeat("2026-10-05T09:00:00Z host=pop1 event=login result=ok latency=0.004\n", 15_000),
	}
	out := make([][]byte, len(messages))
	for i, m := range messages {
		out[i] = []byte(m)
	}
	return out
}

func head(subject, more string) string {
	return "Return-Path: <postmaster@demo.test>\nFrom: Postmaster <postmaster@demo.test>\nTo: You <you@demo.test>\n" +
		"Subject: " + subject + "\nDate: Mon, 05 Oct 2026 09:00:00 +0000\nMIME-Version: 1.0\n" + more + "\n"
}

func attachment() string {
	data := make([]byte, 150_000)
	for i := range data {
		data[i] = byte(i * i >> 3)
	}
	var b strings.Builder
	b.WriteString(head("The file you asked for", "Content-Type: multipart/mixed; boundary=\"=_1\"\n"))
	b.WriteString("--=_1\nContent-Type: text/plain\n\nSee below.\n-- \nBob\n\n--=_1\nContent-Type: application/octet-stream; name=plan.bin\n" +
		"Content-Disposition: attachment; filename=plan.bin\nContent-Transfer-Encoding: base64\n\n")
	b.WriteString(wrapped(base64.StdEncoding.EncodeToString(data)) + "\n--=_1--\n")
	return b.String()
}

func wrapped(s string) string {
	var b strings.Builder
	for len(s) > 76 {
		b.WriteString(s[:76] + "\n")
		s = s[76:]
	}
	return b.String() + s
}

// list has the header of a mailing list, which is longer than its text.
func list() string {
	var b strings.Builder
	for i := range 40 {
		fmt.Fprintf(&b, "Received: from mx%d.demo.test (mx%d.demo.test [192.0.2.%d])\n\tby mx%d.demo.test with ESMTPS id %08x;\n\tMon, 05 Oct 2026 09:00:%02d +0000\n", i, i, i+1, i+1, i*7919, i)
	}
	return b.String() + head("[all] Re: Re: lunch", "List-Id: <all.demo.test>\nPrecedence: bulk\n") +
		"From here on it is about lunch.\n>From there it was not.\n"
}

// onWire is what RETR has to send for a stored message, before dot-stuffing:
// every line ended by CRLF. It is written apart from the server's own way, to
// be a check on it.
func onWire(stored []byte) []byte {
	out := make([]byte, 0, len(stored)+len(stored)/32+2)
	for i, c := range stored {
		if c == '\n' && (i == 0 || stored[i-1] != '\r') {
			out = append(out, '\r')
		}
		out = append(out, c)
	}
	if len(out) > 0 && out[len(out)-1] != '\n' {
		out = append(out, '\r', '\n')
	}
	return out
}
