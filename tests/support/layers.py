"""Weights, inputs and gradients of a layer with batch norm."""
import torch


def filled(layer, seed=0):
    """Weights of both signs, and running statistics that differ from those of any batch."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, t in layer.state_dict().items():
            if t.is_floating_point():
                t.normal_(generator=generator)
                if name.endswith('running_var'):
                    t.abs_().add_(0.5)
    return layer


def random(*shape, seed=1, **kwargs):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(**kwargs)


def gradients(layer, x, dz):
    x = x.clone().requires_grad_()
    z = layer(x)
    z.backward(dz)
    return {'z': z.detach(), 'dx': x.grad, **{k: p.grad for k, p in layer.named_parameters()},
            **dict(layer.named_buffers())}
