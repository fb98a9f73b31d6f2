"""Data-parallel training with Horovod; goes on from its last checkpoint when started again.

launcher entry_script=train_horovod.py dist=mpi procs_per_node=2
"""

import argparse
import os
from pathlib import Path

import horovod.torch as hvd
import torch
from model import correct, digits, net
from torch.nn.functional import cross_entropy

from launcher import report

parser = argparse.ArgumentParser()
parser.add_argument("--lr", type=float, default=0.05, help="of one rank; scaled by their number")
parser.add_argument("--epochs", type=int, default=8)
parser.add_argument("--batch-size", type=int, default=32, help="of one rank")
parser.add_argument("--seed", type=int, default=0)
args = parser.parse_args()

hvd.init()
torch.manual_seed(args.seed)
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
train, test = digits(args.seed)
shard = torch.utils.data.distributed.DistributedSampler(
    train, num_replicas=hvd.size(), rank=hvd.rank(), seed=args.seed
)
batches = torch.utils.data.DataLoader(train, batch_size=args.batch_size, sampler=shard)
# Every rank tests a part; the parts do not overlap, so that their sum is exact.
part = torch.utils.data.Subset(test, range(hvd.rank(), len(test), hvd.size()))

model = net().to(device)
optimizer = torch.optim.SGD(model.parameters(), lr=args.lr * hvd.size(), momentum=0.9)
# Before its state is loaded: Horovod's optimizer is a new one, with none.
optimizer = hvd.DistributedOptimizer(optimizer, named_parameters=model.named_parameters())
checkpoint = Path(os.environ.get("LAUNCHER_CHECKPOINT_DIR", ".")) / "last.pt"
start = 0
if hvd.rank() == 0 and checkpoint.exists():
    state = torch.load(checkpoint, weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    start = state["epoch"] + 1
    print(f"going on from epoch {start}")
start = hvd.broadcast_object(start, root_rank=0)
hvd.broadcast_parameters(model.state_dict(), root_rank=0)
hvd.broadcast_optimizer_state(optimizer, root_rank=0)

for epoch in range(start, args.epochs):
    model.train()
    shard.set_epoch(epoch)
    for images, labels in batches:
        optimizer.zero_grad()
        loss = cross_entropy(model(images.to(device)), labels.to(device))
        loss.backward()
        optimizer.step()
    right = hvd.allreduce(torch.tensor(float(correct(model, part))), op=hvd.Sum)
    mean_loss = hvd.allreduce(loss.detach(), name="loss")
    accuracy = right.item() / len(test)
    if hvd.rank() == 0:
        print(f"epoch {epoch}: loss {mean_loss.item():.4f}, accuracy {accuracy:.4f}")
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch}
        torch.save(state, checkpoint.with_suffix(".new"))
        checkpoint.with_suffix(".new").replace(checkpoint)  # whole, or not at all
    report(step=epoch, loss=mean_loss, accuracy=accuracy)
