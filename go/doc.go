// Package selector decides how a DWCP node compresses its next transfer.
//
// A node describes what it knows of the link and of the payload, and gets one of
// HDE, AMST, None or Zstd back, with a confidence and the reason why. The model
// behind it is a published bundle that was verified before it was trusted; where
// none can be used, documented rules decide, so a caller always gets an answer.
//
// What the model takes, in which order and within which limits is generated from
// the pipeline's contract (contract_gen.go) and never typed twice. Units are part
// of names: Ms is milliseconds, Mbps megabit per second, Bytes bytes.
//
// The package needs nothing but the standard library.
package selector
