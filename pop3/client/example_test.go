package client_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"

	"github.com/emersion/go-sasl"

	"github.com/kpopd/kpopd/pop3/client"
)

// A session that shows its conversation, with the secrets masked.
func Example() {
	ctx := context.Background()
	c, err := client.New(ctx, exampleServer(), &client.Options{
		Log: func(k client.Kind, line string) { fmt.Printf("%c: %s\n", k, line) },
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := c.Auth(ctx, sasl.NewPlainClient("", "alice", "open sesame")); err != nil {
		fmt.Println(err)
		return
	}
	if message, err := c.Retr(ctx, 1); err == nil {
		io.Copy(io.Discard, message)
	}
	c.Quit(ctx)
	// Output:
	// S: +OK POP3 ready
	// C: AUTH PLAIN ***
	// S: +OK 1 message
	// C: RETR 1
	// S: +OK 6 octets
	// B: ..dot
	// B: .
	// C: QUIT
	// S: +OK Bye
}

// exampleServer is a connection to a server that has its answers ready.
func exampleServer() net.Conn {
	near, far := net.Pipe()
	go func() { // ends after the last answer
		defer far.Close()
		r := bufio.NewReader(far)
		for _, answer := range []string{"POP3 ready", "1 message", "6 octets\r\n..dot\r\n.", "Bye"} {
			fmt.Fprintf(far, "+OK %s\r\n", answer)
			r.ReadString('\n')
		}
	}()
	return near
}
