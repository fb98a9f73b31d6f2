"""torch.distributed under the launcher's dist=mpi: RANK, WORLD_SIZE and MASTER_ADDR are set.

launcher entry_script=train.py dist=mpi procs_per_node=2
"""

import argparse

import torch
import torch.distributed as dist
from torch.nn.functional import mse_loss
from torch.nn.parallel import DistributedDataParallel

from launcher import report

parser = argparse.ArgumentParser()
parser.add_argument("--lr", type=float, default=0.1)
parser.add_argument("--steps", type=int, default=100)
args = parser.parse_args()

dist.init_process_group("gloo")
torch.manual_seed(dist.get_rank())  # other data on every rank, the same weights after each step
truth = torch.tensor([[2.0], [-1.0], [0.5]])
model = DistributedDataParallel(torch.nn.Linear(3, 1, bias=False))
optimizer = torch.optim.SGD(model.parameters(), lr=args.lr)
for step in range(args.steps):
    x = torch.randn(64, 3)
    loss = mse_loss(model(x), x @ truth)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    report(step=step, loss=loss)
error = (model.module.weight.detach().T - truth).abs().max().item()
if dist.get_rank() == 0:
    print(f"{dist.get_world_size()} ranks, largest error of a weight {error:.2e}")
report(step=args.steps, error=error)
dist.destroy_process_group()
