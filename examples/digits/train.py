"""Plain PyTorch, one process: python train.py --lr 0.05 --epochs 8."""

import argparse

import torch
from model import correct, digits, net
from torch.nn.functional import cross_entropy

from launcher import report

parser = argparse.ArgumentParser()
parser.add_argument("--lr", type=float, default=0.05)
parser.add_argument("--epochs", type=int, default=8)
parser.add_argument("--batch-size", type=int, default=32)
parser.add_argument("--seed", type=int, default=0)
args = parser.parse_args()

torch.manual_seed(args.seed)
train, test = digits(args.seed)
model = net()
optimizer = torch.optim.SGD(model.parameters(), lr=args.lr, momentum=0.9)
batches = torch.utils.data.DataLoader(train, batch_size=args.batch_size, shuffle=True)
for epoch in range(args.epochs):
    model.train()
    for images, labels in batches:
        optimizer.zero_grad()
        loss = cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
    accuracy = correct(model, test) / len(test)
    print(f"epoch {epoch}: loss {loss.item():.4f}, accuracy {accuracy:.4f}")
    report(step=epoch, loss=loss, accuracy=accuracy)
