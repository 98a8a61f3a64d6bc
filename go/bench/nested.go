package main

import (
	"encoding/json"
	"fmt"
	"math"
	"os"

	"dwcp.internal/selector"
)

// nested is the trees of a model as one would write them down: a struct a node, a pointer
// a branch. It stands beside the level tables, to show what those are worth. It answers for the
// trees alone, from XGBoost's JSON, whose features must be all of the contract's, in its order.
type nested struct {
	roots   []*node
	classes []int
	base    [selector.CandidateCount]float32
}

type node struct {
	left, right *node // nil: a leaf
	feature     int
	value       float32 // threshold of a branch, weight of a leaf
}

// booster is XGBoost's JSON as far as it is needed.
type booster struct {
	Learner struct {
		Param struct {
			BaseScore string `json:"base_score"`
		} `json:"learner_model_param"`
		Booster struct {
			Model struct {
				Classes []int `json:"tree_info"`
				Trees   []struct {
					Left    []int     `json:"left_children"`
					Right   []int     `json:"right_children"`
					Feature []int     `json:"split_indices"`
					Value   []float32 `json:"split_conditions"`
				} `json:"trees"`
			} `json:"model"`
		} `json:"gradient_booster"`
	} `json:"learner"`
}

func openNested(path, _ string) (selector.Predictor, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var read booster
	if err := json.Unmarshal(data, &read); err != nil {
		return nil, fmt.Errorf("%s is no booster of XGBoost in JSON: %w", path, err)
	}
	found := &nested{classes: read.Learner.Booster.Model.Classes}
	var base []float32
	if err := json.Unmarshal([]byte(read.Learner.Param.BaseScore), &base); err != nil || len(base) != selector.CandidateCount {
		return nil, fmt.Errorf("%s has the base_score %s, not one value a class", path, read.Learner.Param.BaseScore)
	}
	copy(found.base[:], base)
	for _, tree := range read.Learner.Booster.Model.Trees {
		nodes := make([]*node, len(tree.Left))
		for place := range nodes {
			nodes[place] = &node{feature: tree.Feature[place], value: tree.Value[place]}
		}
		for place, left := range tree.Left {
			if left >= 0 {
				nodes[place].left, nodes[place].right = nodes[left], nodes[tree.Right[place]]
			}
		}
		found.roots = append(found.roots, nodes[0])
	}
	return found, nil
}

// Predict is softmax over the sums of the trees.
func (n *nested) Predict(features *selector.Features, probabilities *[selector.CandidateCount]float32) error {
	margins := n.base
	for tree, at := range n.roots {
		for at.left != nil {
			if features[at.feature] < at.value {
				at = at.left
			} else {
				at = at.right
			}
		}
		margins[n.classes[tree]] += at.value
	}
	var sum float64
	for class, margin := range margins {
		probabilities[class] = float32(math.Exp(float64(margin)))
		sum += float64(probabilities[class])
	}
	for class := range probabilities {
		probabilities[class] = float32(float64(probabilities[class]) / sum)
	}
	return nil
}

// Version names the model, which XGBoost's JSON does not.
func (n *nested) Version() string { return "trees" }

// Rule lets no choice run but the baseline.
func (n *nested) Rule() selector.Rule { return selector.Rule{} }
