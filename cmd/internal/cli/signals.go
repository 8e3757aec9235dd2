package cli

import (
	"os"
	"os/signal"
	"syscall"
)

// Server is what signals steer.
type Server struct {
	Reload   func()                    // on SIGHUP; logs what is wrong itself
	Shutdown func(now <-chan struct{}) // on SIGTERM or SIGINT; a second one closes now
}

// Serve starts a server and returns when it has shut down. Signals that come
// while it starts are not lost.
func Serve(start func() (Server, error)) error {
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGHUP, syscall.SIGTERM, syscall.SIGINT)
	defer signal.Stop(signals)
	// who read the log has gone: a write says so, and is no reason to die.
	// Ignored, the signal would be ignored by programs that we start, too
	gone := make(chan os.Signal, 1)
	signal.Notify(gone, syscall.SIGPIPE)
	defer signal.Stop(gone)
	s, err := start()
	if err != nil {
		return err
	}
	s.obey(signals)
	return nil
}

func (s Server) obey(signals <-chan os.Signal) {
	for sig := range signals {
		if sig != syscall.SIGHUP {
			break
		}
		s.Reload()
	}
	s.Shutdown(second(signals))
}

// second is closed when a signal comes that asks to end. Its goroutine may
// wait as long as the process lives.
func second(signals <-chan os.Signal) <-chan struct{} {
	now := make(chan struct{})
	go func() {
		for sig := range signals {
			if sig != syscall.SIGHUP {
				close(now)
				return
			}
		}
	}()
	return now
}
