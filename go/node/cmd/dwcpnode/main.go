// Command dwcpnode is a small real node: one serves, another sends it versions of objects,
// each the way that the published model chooses.
//
//	dwcpnode serve -listen 127.0.0.1:7400 -store held
//	dwcpnode send  -to 127.0.0.1:7400 -objects payloads -channel .dwcp -key .dwcp/keys/signing.pub.pem
//
// -h behind either lists its flags.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

const usage = `dwcpnode sends versions of objects to a peer, each the way that the published model chooses.

  dwcpnode serve   take what peers send, check it, hold the newest version of each object
  dwcpnode send    send the versions below a directory

-h behind either lists its flags.
`

// errUsage says that the flags were wrong, which flag has said in detail.
var errUsage = errors.New("see -h")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // whoever does not want to wait says it twice
	err := run(ctx, os.Args[1:])
	switch {
	case err == nil || errors.Is(err, flag.ErrHelp):
	case errors.Is(err, errUsage):
		os.Exit(2)
	default:
		fmt.Fprintln(os.Stderr, "dwcpnode:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, arguments []string) error {
	if len(arguments) > 0 {
		switch arguments[0] {
		case "serve":
			return serve(ctx, arguments[1:])
		case "send":
			return send(ctx, arguments[1:])
		}
	}
	fmt.Fprint(os.Stderr, usage)
	return errUsage
}

// parse reads flags, of which all must be known and nothing else may follow.
func parse(flags *flag.FlagSet, arguments []string) error {
	if err := flags.Parse(arguments); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return err
		}
		return errUsage
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("%s takes flags only, not %q", flags.Name(), flags.Arg(0))
	}
	return nil
}

func hostName() string {
	name, err := os.Hostname()
	if err != nil || name == "" {
		return "node"
	}
	return name
}
