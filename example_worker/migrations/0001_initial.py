"""The table of the orders."""

import uuid

import django.utils.timezone
from django.db import migrations, models

STATES = [("placed", "Placed"), ("waiting", "Waiting"), ("charged", "Charged"), ("failed", "Failed")]


class Migration(migrations.Migration):
    initial = True
    operations = (
        migrations.CreateModel(
            name="Order",
            fields=[
                ("id", models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False)),
                ("customer", models.CharField(max_length=100)),
                ("amount", models.DecimalField(decimal_places=2, max_digits=8)),
                ("state", models.CharField(choices=STATES, db_index=True, default="placed", max_length=10)),
                ("why", models.CharField(blank=True, help_text="Why the order waits, or has failed.", max_length=200)),
                ("until", models.DateTimeField(blank=True, help_text="When the order is tried again.", null=True)),
                ("placed_at", models.DateTimeField(db_index=True, default=django.utils.timezone.now)),
                ("changed_at", models.DateTimeField(default=django.utils.timezone.now)),
            ],
            options={"ordering": ("-placed_at", "id")},
        ),
    )
