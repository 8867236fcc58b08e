"""ln L - R, its gradient and its curvature by formulas written out, instead of by autograd."""
