// What a step's drafts come to: which nodes of each tree the model agrees with, and their keys and values
// made part of the sequence.
//
// Tested by tests/kernels/cuda/conformance_test.cc.
#pragma once

#include <cstdint>

#include "kernels/cuda/kv_pages.h"
#include "kernels/cuda/stream.h"
#include "kernels/cuda/tree_attention.h"

namespace clamor::kernels::cuda {

// The nodes of a sequence's tree are rows first .. first + nodes - 1 of the step, parents before children;
// the root's token is committed already.
struct StepTree {
  int32_t first, nodes;  // 0 nodes: nothing to do; at most kMaxNodes
  int32_t prefix;        // committed positions before the root
  int32_t sequence;      // of the page table
};

// What a sequence gets out of it: nodes[0] = 0, the root, then each node whose token is the one drawn at the
// one before.
struct Accepted {
  int32_t count;             // of nodes
  int32_t next;              // the token drawn at the last of them
  int32_t nodes[kMaxNodes];  // counted from the tree's first row
};

struct AcceptArgs {
  const StepTree* trees;   // [tree_count]
  const int32_t* tokens;   // [rows]
  const int32_t* parents;  // [rows], counted from the tree's first row; of a root: -1
  const int32_t* drawn;    // [rows]: the model's token behind each row
  int64_t tree_count;
  Accepted* accepted;  // [tree_count]
};

// Walks down from each root. Of several children with the token, the first counts.
void Accept(const AcceptArgs& args, Stream stream);

struct CommitKvArgs {
  const StepTree* trees;      // [tree_count]
  const Accepted* accepted;   // [tree_count]
  const int32_t* slots;       // [rows], where each row's key and value are
  const int32_t* page_table;  // [sequences, pages_per_sequence]
  int32_t pages_per_sequence;
  int64_t tree_count;
  const KvPages* layers;  // [layer_count], in device memory, all of one shape
  int layer_count, kv_heads, head_dim;
};

// Copies the keys and values of accepted nodes to positions prefix, prefix + 1, ... of their sequences, in
// every layer. A position's slot may be the slot of another accepted node.
void CommitKv(const CommitKvArgs& args, Stream stream);

}  // namespace clamor::kernels::cuda
