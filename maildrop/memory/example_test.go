package memory_test

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/kpopd/kpopd/maildrop"
	"github.com/kpopd/kpopd/maildrop/memory"
)

func ExampleStore() {
	var s memory.Store
	s.Deliver("alice", "Subject: Hello\n\nHello, Alice.\n")

	ctx := context.Background()
	d, err := s.Open(ctx, maildrop.Ref{User: "alice"})
	if err != nil {
		fmt.Println(err)
		return
	}
	messages, err := maildrop.List(ctx, d)
	if err != nil {
		fmt.Println(err)
		return
	}
	for i, m := range messages {
		fmt.Printf("message %d: %d octets, unique-id %s\n", i+1, m.Size, m.UID)
		r, err := d.Content(ctx, i)
		if err != nil {
			fmt.Println(err)
			return
		}
		io.Copy(os.Stdout, r)
		r.Close()
	}
	_, err = s.Open(ctx, maildrop.Ref{User: "alice"})
	fmt.Println(err)
	fmt.Println(d.Commit(ctx, []int{0}))
	// Output:
	// message 1: 33 octets, unique-id 1
	// Subject: Hello
	//
	// Hello, Alice.
	// open maildrop of "alice": maildrop: in use
	// <nil>
}
