package node

import (
	"fmt"
	"math"
	"sort"

	selector "dwcp.internal/selector"
)

// Line is one transfer, for a person to read.
func (t *Transfer) Line() string {
	name := fmt.Sprintf("%-28s", t.Version.ObjectID)
	if t.Err != nil {
		return fmt.Sprintf("%s NOT SENT after %d attempts: %v", name, t.Attempts, t.Err)
	}
	record := t.Record
	decision := &record.Decision
	if t.Measured {
		costs := costsMs(record)
		line := fmt.Sprintf("%s v%-3d measured:", name, record.ObjectVersion)
		for choice, cost := range costs {
			line += fmt.Sprintf(" %v %.2f ms", selector.Choice(choice), cost)
		}
		best := cheapest(&costs)
		againstZstd := func(choice selector.Choice) float64 { return 100 * (costs[choice]/costs[selector.Zstd] - 1) }
		return line + fmt.Sprintf("; chose %v, %+.0f %% against zstd; the cheapest is %v, %+.0f %%",
			decision.Choice, againstZstd(decision.Choice), best, againstZstd(best))
	}
	measured := executed(record)
	confidence := "    -"
	if decision.ModelVersion != "" {
		confidence = fmt.Sprintf("%5.3f", decision.Confidence)
	}
	line := fmt.Sprintf("%s v%-3d %9s  %-4v %-14v %s  %7.2fx  %8.2f ms = %.2f + %.2f wire + %.2f",
		name, record.ObjectVersion, bytesText(record.Data.SizeBytes), decision.Choice, decision.Reason, confidence,
		float64(record.Data.SizeBytes)/float64(record.SentBytes),
		measured.CompressionMs+record.TransferMs+measured.DecompressionMs,
		measured.CompressionMs, record.TransferMs, measured.DecompressionMs)
	if t.Attempts > 1 {
		line += fmt.Sprintf("  (attempt %d)", t.Attempts)
	}
	if t.Fault != nil {
		line += "  ! " + t.Fault.Error()
	}
	return line
}

func executed(record *selector.Record) selector.Measured {
	m := &record.Measured
	return [selector.AlgorithmCount]selector.Measured{selector.HDE: m.HDE, selector.AMST: m.AMST, selector.Zstd: m.Zstd}[record.Decision.Choice]
}

// costsMs is what each choice costs of a fully measured transfer over the link as it was
// then: compressing, sending, decompressing, by the pipeline's oracle.
func costsMs(record *selector.Record) (costs [selector.AlgorithmCount]float64) {
	m, network := &record.Measured, &record.Network
	wireMs := func(bytes int64) float64 {
		return float64(bytes) / (125 * network.BandwidthMbps * (1 - network.PacketLossRate))
	}
	for choice, engine := range map[selector.Choice]selector.Measured{selector.HDE: m.HDE, selector.AMST: m.AMST, selector.Zstd: m.Zstd} {
		costs[choice] = engine.CompressionMs + wireMs(engine.CompressedBytes) + engine.DecompressionMs
	}
	costs[selector.None] = wireMs(record.Data.SizeBytes)
	return costs
}

func cheapest(costs *[selector.AlgorithmCount]float64) (best selector.Choice) {
	for choice, cost := range costs {
		if cost < costs[best] {
			best = selector.Choice(choice)
		}
	}
	return best
}

func bytesText(bytes int64) string {
	switch {
	case bytes < 1e4:
		return fmt.Sprintf("%d B", bytes)
	case bytes < 1e7:
		return fmt.Sprintf("%.1f kB", float64(bytes)/1e3)
	}
	return fmt.Sprintf("%.1f MB", float64(bytes)/1e6)
}

// Summary sums up transfers, in JSON for programs and Text for people. Times are ms.
type Summary struct {
	Sent          int            `json:"sent"`
	NotSent       int            `json:"not_sent"` // tried and given up, see the lines
	NotTried      int            `json:"not_tried"`
	Fallbacks     int            `json:"fallbacks"` // decisions without the model's word
	Retried       int            `json:"retried"`
	ByReason      map[string]int `json:"by_reason"`
	ByChoice      map[string]int `json:"by_choice"`
	ByModel       map[string]int `json:"by_model"` // "" is none
	PayloadBytes  int64          `json:"payload_bytes"`
	SentBytes     int64          `json:"sent_bytes"`
	TransferMs    float64        `json:"transfer_ms"` // compressing, sending, decompressing
	DecisionMs    float64        `json:"decision_ms"`
	LookMs        float64        `json:"look_ms"`
	IndexMs       float64        `json:"index_ms"`       // of hashing what was sent, afterwards: HDE's, for the next version
	OverheadShare float64        `json:"overhead_share"` // of deciding and looking, in transfer time
	DecisionUsP50 float64        `json:"decision_us_p50"`
	DecisionUsP99 float64        `json:"decision_us_p99"`

	FullyMeasured int     `json:"fully_measured"`
	ChosenMs      float64 `json:"chosen_ms"` // of the fully measured
	ZstdMs        float64 `json:"zstd_ms"`   // had zstd sent them
	OracleMs      float64 `json:"oracle_ms"` // had each gone the cheapest way
	OracleAgrees  int     `json:"oracle_agrees"`

	Updates     selector.UpdateStatus            `json:"updates"`
	Logger      selector.LoggerCounters          `json:"logger"`
	Measurement selector.FullMeasurementCounters `json:"measurement"`

	decisionUs []float64
}

// NewSummary is of no transfers yet.
func NewSummary() *Summary {
	return &Summary{ByReason: map[string]int{}, ByChoice: map[string]int{}, ByModel: map[string]int{}}
}

// Add counts a transfer.
func (s *Summary) Add(t *Transfer) {
	record := t.Record
	switch {
	case t.Err != nil:
		s.NotSent++
	case t.Measured:
		costs := costsMs(record)
		best := cheapest(&costs)
		s.FullyMeasured++
		s.ChosenMs += costs[record.Decision.Choice]
		s.ZstdMs += costs[selector.Zstd]
		s.OracleMs += costs[best]
		if record.Decision.Choice == best {
			s.OracleAgrees++
		}
	default:
		decision, measured := &record.Decision, executed(record)
		s.Sent++
		if t.Attempts > 1 {
			s.Retried++
		}
		if t.Fault != nil {
			s.Fallbacks++
		}
		s.ByReason[decision.Reason.String()]++
		s.ByChoice[decision.Choice.String()]++
		s.ByModel[decision.ModelVersion]++
		s.PayloadBytes += record.Data.SizeBytes
		s.SentBytes += record.SentBytes
		s.TransferMs += measured.CompressionMs + record.TransferMs + measured.DecompressionMs
		s.DecisionMs += milliseconds(decision.DecisionTime)
		s.LookMs += milliseconds(decision.ProbeTime)
		s.IndexMs += milliseconds(t.Indexed)
		s.decisionUs = append(s.decisionUs, milliseconds(decision.DecisionTime)*1e3)
	}
}

// Finish computes what follows from the sums.
func (s *Summary) Finish() {
	if s.TransferMs > 0 {
		s.OverheadShare = (s.DecisionMs + s.LookMs) / s.TransferMs
	}
	sort.Float64s(s.decisionUs)
	if last := len(s.decisionUs) - 1; last >= 0 {
		s.DecisionUsP50, s.DecisionUsP99 = s.decisionUs[last/2], s.decisionUs[int(math.Ceil(0.99*float64(last)))]
	}
}

// Text is the summary for a person.
func (s *Summary) Text() string {
	text := fmt.Sprintf("%d transfers, %s in %s (%.2fx); %d not sent, %d not tried, %d retried, %d decided without the model\n",
		s.Sent, bytesText(s.PayloadBytes), bytesText(s.SentBytes), float64(s.PayloadBytes)/float64(max(s.SentBytes, 1)),
		s.NotSent, s.NotTried, s.Retried, s.Fallbacks)
	inTime := func(ms float64) float64 { return 100 * ms / max(s.TransferMs, 1e-9) }
	text += fmt.Sprintf("decision p50 %.1f µs, p99 %.1f µs; of transfer time, deciding took %.2f %%, looking before it %.2f %%, and afterwards indexing %.2f %%\n",
		s.DecisionUsP50, s.DecisionUsP99, inTime(s.DecisionMs), inTime(s.LookMs), inTime(s.IndexMs))
	if s.FullyMeasured > 0 {
		text += fmt.Sprintf("%d fully measured: chosen %.1f ms, zstd would have been %.1f ms (%+.1f %%), the cheapest %.1f ms; the cheapest was chosen in %d\n",
			s.FullyMeasured, s.ChosenMs, s.ZstdMs, 100*(s.ChosenMs/s.ZstdMs-1), s.OracleMs, s.OracleAgrees)
	}
	return text + fmt.Sprintf("metrics: %d rows logged, %d sent, %d lost; channel: serial %d, %d releases served, %d refused\n",
		s.Logger.Logged, s.Logger.Sent, s.Logger.Lost+s.Logger.Dropped+s.Logger.Invalid+s.Logger.Refused,
		s.Updates.Serial, s.Updates.Swaps, s.Updates.Refused)
}
