// Package node is a small real node over the selector: it sends versions of objects to a
// peer, each the way the selector chooses, and logs what came of it. Two of them on
// loopback show the whole loop of seed §7 and §9; cmd/dwcpnode runs one.
package node
