package pop3_test

import (
	"context"
	"fmt"
	"net"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/maildrop"
	"github.com/kpopd/kpopd/maildrop/memory"
	"github.com/kpopd/kpopd/pop3"
	"github.com/kpopd/kpopd/pop3/client"
)

// open is a policy that offers nothing, and maildrops.
type open struct {
	authn.Policy
	memory.Store
}

func (o *open) Open(ctx context.Context, id *authn.Identity) (maildrop.Drop, error) {
	return o.Store.Open(ctx, maildrop.Ref{User: id.User})
}

func ExampleServer_ServeConn() {
	srv := &pop3.Server{Backend: &open{}}
	c, s := net.Pipe()
	done := make(chan error)
	go func() { done <- srv.ServeConn(context.Background(), s, &authn.Transport{Listener: "pop3"}) }()

	cl, err := client.New(context.Background(), c, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(cl.Greeting())
	fmt.Println(cl.Quit(context.Background()), <-done)
	// Output:
	// kpopd ready
	// <nil> <nil>
}
