# %% [markdown]
# # Why √n and not n?
#
# [Lesson 5](../05-square-root.md) answers the question with three runs. This study makes the same
# three runs at full size (512 numbers, 500,000 columns of weights), and then asks what the short
# answer leaves out: how much of what you see is the luck of `x`, and how much is the luck of the
# weights.

# %%
import matplotlib.pyplot as plt
import torch

import handwave as hw

FAN_IN, COLUMNS = 512, 500_000

torch.manual_seed(0)
x = torch.randn(FAN_IN)

# %% [markdown]
# ## The three runs
#
# Every column of weights gives one output, the sum of 512 products. `sample_dot_products` draws
# the columns as they are needed, so that a gigabyte of weights is never held.

# %%
for label, scale in [("1", 1.0), ("1/n", 1 / FAN_IN), ("1/√n", FAN_IN**-0.5)]:
    outputs = hw.Moments.of(hw.sample_dot_products(x, COLUMNS, scale=scale))
    print(f"weights times {label:<4}  variance of the outputs {outputs.var:8.3g}")

# %% [markdown]
# Times 1 the variance stands near 512; times 1/n it stands near 1/512, about 0.002; times 1/√n
# it stands near 1. A factor in front of the weights comes out of the variance *squared*: to divide
# the variance by n, you divide the weights by √n.
#
# ## Near 512, but not 512
#
# The variance over fresh weights is exactly `x @ x`, the sum of the squares of this `x`. With half
# a million columns the estimate is good to about ±0.2 %. Does it agree?

# %%
outputs = hw.Moments.of(hw.sample_dot_products(x, COLUMNS))
exact = float(x.double() @ x.double())
print(f"x @ x              {exact:.1f}")
print(f"relative error     {100 * abs(outputs.var / exact - 1):.1f} %")
print(f"to be expected     {100 * (2 / COLUMNS) ** 0.5:.1f} % (one standard deviation)")

# %% [markdown]
# So the distance from 512 is not an error of the estimate: it is this `x`. How far does `x @ x`
# itself wander? Here it is for 20,000 other draws of `x`, beside what half a million columns add.

# %% alt="A wide bell of x @ x over many draws of x, centred on 512, from about 420 to 610; in its middle a band two units wide shows how little the columns add."
draws = torch.randn(20_000, FAN_IN, dtype=torch.float64).square().sum(1)
print(f"mean {draws.mean():.0f}, standard deviation {draws.std():.0f}")

fig, ax = plt.subplots()
ax.hist(draws.numpy(), bins=60, color="C0", alpha=0.8)
error = FAN_IN * (2 / COLUMNS) ** 0.5
ax.axvspan(FAN_IN - error, FAN_IN + error, color="C1")
ax.annotate(
    "what 500,000\ncolumns add",
    (FAN_IN + error, 1100),
    (565, 1050),
    color="C1",
    arrowprops={"arrowstyle": "-", "color": "C1"},
)
ax.set(title="x decides what you see", xlabel="x @ x for one draw of x", ylabel="draws of x")
plt.show()

# %% [markdown]
# A standard deviation of 32 around 512 is what the χ² distribution with 512 degrees of freedom
# has: √(2·512) = 32. Whoever prints 540, with this many columns, has drawn a long `x`; whoever
# prints 495, a short one.
#
# ## Over many draws of x
#
# Each point is one `x` with its own 2,000 columns. They stand on the diagonal: the variance that
# you measure follows `x @ x`, wherever that is.

# %% alt="Sixty points close to a diagonal line: measured variance on the vertical axis against x @ x on the horizontal axis, from about 440 to 590."
points = []
for _ in range(60):
    x = torch.randn(FAN_IN)
    measured = hw.Moments.of(hw.sample_dot_products(x, 2_000)).var
    points.append((float(x @ x), measured))

fig, ax = plt.subplots()
ax.plot(*zip(*points, strict=True), "o", color="C0")
ax.axline((FAN_IN, FAN_IN), slope=1, color="C1", linewidth=1.2)
ax.set(
    title="The measured variance follows x @ x", xlabel="x @ x", ylabel="variance of 2,000 outputs"
)
plt.show()

# %% [markdown]
# What remains around the line is the luck of 2,000 columns: √(2/2000), about 3 %. With 500,000
# you would not see it.
#
# **To take away:** dividing the weights by √n makes the variance of an output `x @ x / n`, the
# *mean* square of the inputs: 1 when the inputs have second moment 1, whatever n is.
