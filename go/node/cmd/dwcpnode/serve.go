package main

import (
	"context"
	"flag"
	"fmt"
	"net"
	"sync"
	"time"

	"dwcp.internal/selector/node"
)

func serve(ctx context.Context, arguments []string) error {
	flags := flag.NewFlagSet("dwcpnode serve", flag.ContinueOnError)
	var (
		listen   = flags.String("listen", "127.0.0.1:7400", "`address` to listen on; port 0 takes a free one. Peers are not authenticated: keep it on loopback or a private network")
		store    = flags.String("store", "", "`directory` that holds the newest version of each object (needed)")
		nodeID   = flags.String("node-id", hostName()+"-receiver", "`name` of this node, which should not change")
		maxBytes = flags.Int64("max-bytes", node.DefaultMaxPayloadBytes, "largest payload taken, in `bytes`")
		quiet    = flags.Bool("quiet", false, "tell of failures only")
	)
	if err := parse(flags, arguments); err != nil {
		return err
	}
	if *store == "" {
		return fmt.Errorf("-store is needed: a directory to hold versions in")
	}
	held, err := node.OpenHeld(*store)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", *listen)
	if err != nil {
		return fmt.Errorf("nothing can listen on %s: %w", *listen, err)
	}
	fmt.Printf("%s listens on %s\n", *nodeID, listener.Addr())
	var mutex sync.Mutex // peers are served side by side
	receiver := &node.Receiver{NodeID: *nodeID, Held: held, MaxPayloadBytes: *maxBytes, Say: func(event node.Event) {
		mutex.Lock()
		defer mutex.Unlock()
		switch {
		case event.Problem != "":
			fmt.Printf("%s %s: %s: %s\n", event.PeerID, event.ObjectID, event.Result, event.Problem)
		case !*quiet:
			fmt.Printf("%s %s: %d bytes in %d by %s, unpacked in %v\n",
				event.PeerID, event.ObjectID, event.Bytes, event.Sent, event.Engine, event.Took.Round(time.Microsecond))
		}
	}}
	return receiver.Serve(ctx, listener)
}
