from django.db import models


class Order(models.Model):
    email = models.EmailField()
    total = models.DecimalField(max_digits=10, decimal_places=2)
    placed_on = models.DateField(auto_now_add=True)
    carrier = models.CharField(max_length=20, blank=True)
